"""SINE for frames: fit, recommend, evaluate, keep. A thin face over the runs that the launches make."""

from __future__ import annotations

import json
import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl

from sine_jax import config as configs
from sine_jax import files, presets, run
from sine_jax.data import ingest, labels, preparation, sources
from sine_jax.data.cells import MILLISECONDS
from sine_jax.data.ingest import Roles, Units
from sine_jax.evaluation import metrics
from sine_jax.serving import recommend
from sine_jax.serving.recommend import Recommender, Request, Users
from sine_jax.types import DISLIKED, WATCHED

Frame = Any  # of polars, pandas or Arrow

_DATA, _RUN, _COLUMNS = "data", "run", "columns.json"


class SINE:
    """A model of a log that is a frame of polars, pandas or Arrow.

    A fitted model lies in a folder: the prepared data set, and the run, as `launch.prepare` and `launch.train` write
    them. Without a folder it is temporary; `save` keeps it.

    Attributes:
      folder: where it lies.
      unknown: exposures of items that the model does not know, which the last call left out.
    """

    def __init__(
        self, preset: str = "default", *, folder: str | None = None, options: Mapping[str, Any] | None = None
    ) -> None:
        """Takes the choices; nothing is read or written yet.

        Args:
          preset: `default` or `official`.
          folder: where to keep the model; a temporary one by default.
          options: options of the configuration, such as `{"model.name": "sasrec", "train.epochs": 20}`.

        Raises:
          ValueError: there is no such preset or option.
        """
        if preset not in presets.PRESETS:
            raise ValueError(f"preset={preset}: no such preset; choose one of {', '.join(presets.PRESETS)}")
        self.config = configs.replace(presets.PRESETS[preset](), dict(options or {}))
        self.folder = Path(folder or tempfile.mkdtemp(prefix="sine_jax."))
        if folder is None:
            weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self.unknown = 0
        self._fitted: Recommender | None = None

    def fit(
        self,
        frame: Frame,
        *,
        user: str,
        item: str,
        time: str = "",
        order: str = "",
        watched: str = "",
        play: str = "",
        duration: str = "",
        dislike: str = "",
        context: Sequence[str] = (),
        label: str = "column",
        time_unit: str = "ms",
        min_positives: int = 3,
    ) -> SINE:
        """Prepares the frame and trains on it, as `launch.prepare` and `launch.train` do; columns are named by role.

        Args:
          frame: a row per exposure.
          user: the column of user ids.
          item: of item ids.
          time: of times; or
          order: of places, where there are no times.
          watched: of what was watched.
          play: of play times, ms.
          duration: of durations, ms.
          dislike: of explicit dislikes.
          context: of small categories that are known when a video is shown.
          label: the label rule.
          time_unit: of times that are numbers: `s`, `ms`, `us` or `ns`.
          min_positives: users with fewer watched exposures are left out.

        Returns:
          Itself.

        Raises:
          ValueError: the frame is bad, or cannot be trained on.
        """
        if time_unit not in MILLISECONDS:
            raise ValueError(f"time_unit={time_unit}: no such unit; choose one of {', '.join(MILLISECONDS)}")
        given = Roles(user, item, time, order, watched, play, duration, dislike, "+".join(context))
        text = ",".join(f"{role}={name}" for role, name in given._asdict().items() if name)
        roles = ingest.parse_roles(text)
        units = Units(time=MILLISECONDS[time_unit])
        told = {"roles": text, "label": label, "time_unit": time_unit}
        raw = sources.of_frame(_to_polars(frame), roles, units)
        preparation.prepare(
            raw, self.folder / _DATA, rule=labels.parse(label), min_positives=min_positives, overwrite=True
        )
        files.write_whole(self.folder / _COLUMNS, json.dumps(told))
        run.train(str(self.folder / _DATA), str(self.folder / _RUN), config=self.config)
        self._fitted = recommend.load(str(self.folder / _RUN))
        return self

    def recommend(
        self,
        users: Sequence[Any] | None = None,
        *,
        histories: Frame | None = None,
        k: int = 20,
        filter_seen: bool = True,
        allow: Sequence[Any] | None = None,
        deny: Sequence[Any] = (),
    ) -> Frame:
        """The first k items of users of the log, or of histories.

        Args:
          users: ids of users of the log; all of them by default. An id that is not known gets the ranking by biases.
          histories: exposures with the columns of `fit`, of any users; they replace what the log knows.
          k: how many items for each.
          filter_seen: leave out items that the user was shown.
          allow: item ids that may be recommended; all by default.
          deny: item ids that may not.

        Returns:
          A frame of the kind of `histories`, or of polars: user, item, rank from 1, score, and known, whether the user
          has a history. A user for whom fewer than k items are left has fewer rows.

        Raises:
          ValueError: the model is not fitted, or nothing may be recommended.
        """
        fitted = self._model()
        found = self._users() if histories is None else self._read(histories)
        if users is not None:
            found = recommend.chosen(found, [_as_id(each) for each in users])._replace(unknown=found.unknown)
        self.unknown = found.unknown
        request = Request(
            k, filter_seen, None if allow is None else [_as_id(each) for each in allow], [_as_id(each) for each in deny]
        )
        parts = [
            recommend.frame_of(fitted, found, answers) for answers in recommend.first_items(fitted, found, request)
        ]
        empty = {"user": pl.String, "item": pl.String, "rank": pl.Int32, "score": pl.Float32, "known": pl.Boolean}
        return _like(pl.concat(parts) if parts else pl.DataFrame(schema=empty), histories)

    def evaluate(self, frame: Frame) -> dict[str, float]:
        """Ranks each user's later exposures among themselves, from what the log of `fit` knows of the user.

        Args:
          frame: later exposures with the columns of `fit`; items that the model does not know are left out.

        Returns:
          Means over users with a watched and a skipped exposure: user_auc, gauc, ndcg, mrr; and how many `users`.

        Raises:
          ValueError: the model is not fitted, or no user has both a watched and a skipped exposure.
        """
        fitted = self._model()
        later = self._read(frame)
        self.unknown = later.unknown
        before = recommend.chosen(self._users(), later.ids.to_list())
        scores = recommend.scores_of(fitted, before, later.log)
        kept = later.log.feedback != DISLIKED
        owners, watched = later.log.users[kept], (later.log.feedback == WATCHED)[kept]
        counts = np.bincount(owners, minlength=later.log.num_users)
        where = np.arange(counts.max(initial=0)) < counts[:, None]
        rows, answers = np.zeros(where.shape, np.float32), np.zeros(where.shape, bool)
        rows[where], answers[where] = scores[kept], watched
        ranking = metrics.ranking(rows, answers, where=where)
        if not ranking.defined.any():
            raise ValueError("frame=...: no user has both a watched and a skipped exposure; pass a frame with some")
        values = {
            "user_auc": metrics.auc(ranking),
            "gauc": metrics.gauc(ranking),
            "ndcg": metrics.ndcg(ranking),
            "mrr": metrics.reciprocal_rank(ranking),
        }
        found = {name: metrics.sums(column).mean for name, column in values.items()}
        return {**found, "users": float(np.count_nonzero(ranking.defined))}

    def save(self, folder: str) -> None:
        """Copies the model to a folder that does not exist yet.

        Raises:
          ValueError: the model is not fitted, or the folder exists or cannot be written.
        """
        self._model()
        if Path(folder).exists():
            raise ValueError(f"{folder}: exists already; choose another folder")
        with files.whole(folder) as partial:
            shutil.copytree(self.folder, partial)

    @staticmethod
    def load(folder: str, *, trust_network: str = "") -> SINE:
        """A model that `save` or a folder of `SINE` kept.

        Args:
          folder: where it lies.
          trust_network: as in `run.restore`.

        Raises:
          ValueError: there is no such model.
        """
        fitted = recommend.load(str(Path(folder) / _RUN), trust_network=trust_network)
        model = SINE(folder=folder)
        model.config, model._fitted = fitted.config, fitted
        return model

    def _model(self) -> Recommender:
        if self._fitted is None:
            raise ValueError(f"folder={self.folder}: the model is not fitted; train it by fit, or load one")
        return self._fitted

    def _users(self) -> Users:
        return recommend.users_of(str(self.folder / _DATA))

    def _read(self, frame: Frame) -> Users:
        """Exposures with the columns of `fit`, as histories."""
        told = json.loads((self.folder / _COLUMNS).read_text())
        roles, rule = ingest.parse_roles(told["roles"]), labels.parse(told["label"])
        units = Units(time=MILLISECONDS[told["time_unit"]])
        raw = sources.of_frame(_to_polars(frame), roles, units)
        pieces = ingest.canonical(raw.read(ingest.raw_columns(roles, rule), ()), roles, units, rule)
        return recommend.from_exposures(self._model(), pl.concat([piece.frame for piece in pieces]))


def _as_id(value: Any) -> str:
    """An id in its one form."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value)


def _to_polars(frame: Frame) -> pl.DataFrame:
    try:
        return nw.from_native(frame, eager_only=True).to_polars()
    except TypeError as error:
        raise ValueError(f"frame={type(frame).__name__}: no frame; pass one of polars, pandas or Arrow") from error


def _like(found: pl.DataFrame, frame: Frame | None) -> Frame:
    """A frame of the kind of another."""
    if frame is None:
        return found
    kind = nw.from_native(frame, eager_only=True).implementation
    if kind.is_pandas():
        return found.to_pandas()
    return found.to_arrow() if kind.is_pyarrow() else found
