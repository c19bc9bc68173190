"""The shipped sample: 2,000 users of KuaiRand-Pure (CC BY-SA 4.0, see README.md beside this file)."""
