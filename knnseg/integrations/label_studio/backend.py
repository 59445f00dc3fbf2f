"""What the ML backend does: predict tasks, and bring the examples of a task into agreement with its annotation.

A notice of Label Studio only says which tasks to look at again. What they show is asked of Label Studio itself, so a
notice that is forged, lost, late or comes twice can do no harm, and a task that is seen again is right again.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Lock
from typing import Any

from knnseg.data.annotations import LabelledImage
from knnseg.data.image import Image
from knnseg.data.vocabulary import tidied
from knnseg.database.adding import segments
from knnseg.database.parts import WHOLE, families
from knnseg.database.schema import CONTENT, ImageExamples, contents
from knnseg.database.spaces import each_space
from knnseg.datasets.formats.label_studio import labelled_task
from knnseg.errors import ConfigError, DatasetError, KnnSegError
from knnseg.export.label_studio import LabelConfig, ShapeKind, prediction
from knnseg.integrations.label_studio.client import Client
from knnseg.segmenter import Segmenter
from knnstore import F, KnnStoreError

__all__ = ["Backend"]

_log = logging.getLogger(__name__)


class Backend:
    """Predicts tasks, and adds what people annotate.

    Args:
        segmenter: with a database.
        client: of the Label Studio that tasks are in.
        name: of the model; the state of the database is added to it, so that Label Studio asks again once it changed.
        prefer: what to draw with where a class has several controls.
        learn: add what people annotate.
        stuff: classes that are stuff, beside those that the database knows as such.

    Raises:
        ConfigError: the segmenter has no database.
    """

    def __init__(
        self, segmenter: Segmenter, client: Client, *,
        name: str = "knnseg", prefer: ShapeKind = "brush", learn: bool = True, stuff: Iterable[str] = (),
    ) -> None:  # fmt: skip
        if segmenter.database is None:
            raise ConfigError("ML backend", expected="a segmenter with a concept database", got="one without")
        self._segmenter, self._database, self._client = segmenter, segmenter.database, client
        self._name, self._prefer, self._learn, self._stuff = name, prefer, learn, frozenset(map(tidied, stuff))
        # One after another: two notices of one task must not meet.
        self._worker = ThreadPoolExecutor(1, "knnseg-label-studio")
        self._waiting: set[int] = set()
        self._lock = Lock()

    @property
    def version(self) -> str:
        """The name of the model, with a mark of what the database holds."""
        return f"{self._name}-{hashlib.sha256(self._database.revision().encode()).hexdigest()[:8]}"

    # -- predicting ---------------------------------------------------------------------------------------------------

    def predict(self, tasks: Iterable[Mapping[str, Any]], xml: str) -> list[list[dict[str, Any]]]:
        """The prediction of each task; none for one whose image cannot be had, which is logged.

        Raises:
            DatasetError: a labelling configuration without a place for segments.
        """
        config, version = LabelConfig.parse(xml), self.version
        return [self._one(task, config, version) for task in tasks]

    def _one(self, task: Mapping[str, Any], config: LabelConfig, version: str) -> list[dict[str, Any]]:
        try:
            image = Image.read(self._client.image(_address(task, config))[0])
            result = self._segmenter.predict(image, config.labels)
        except KnnSegError as error:
            _log.error("task %s: not predicted: %s", task.get("id"), error)
            return []
        return [prediction(result, config, prefer=self._prefer, model_version=version)]

    # -- learning -----------------------------------------------------------------------------------------------------

    def notice(self, event: Mapping[str, Any]) -> None:
        """Take a notice of Label Studio, and look at its tasks soon, in another thread.

        Raises:
            DatasetError: a notice of another form than Label Studio's.
        """
        if not self._learn:
            return
        if event.get("action") == "START_TRAINING":
            self._worker.submit(self._train, _numbers(event.get("project"))[0])
        for number in self._tasks(event):
            with self._lock:
                if number not in self._waiting:  # one that waits will see what this one says
                    self._waiting.add(number)
                    self._worker.submit(self._look, number)

    def _tasks(self, event: Mapping[str, Any]) -> Iterable[int]:
        """The tasks that a notice is about."""
        action = event.get("action")
        if action in ("ANNOTATION_CREATED", "ANNOTATIONS_CREATED", "ANNOTATION_UPDATED"):
            return _numbers(event.get("task"))
        if action == "TASKS_DELETED":
            return _numbers(event.get("tasks"))
        if action == "ANNOTATIONS_DELETED":  # which says not of which tasks
            gone = set(_numbers(event.get("annotations")))
            return {task for task, annotation in self._writers() if annotation in gone}
        return ()

    def _look(self, number: int) -> None:
        """Look at a task again, in the thread that does."""
        with self._lock:
            self._waiting.discard(number)
        with _logged(f"task {number}: not learnt from"):
            self.sync(number)

    def _train(self, project: int) -> None:
        """Look at every annotated task of a project, and at those that gave examples and may be gone."""
        with _logged(f"project {project}: not learnt from"):
            for number in sorted({*self._client.annotated(project), *(task for task, _ in self._writers())}):
                self._look(number)

    def sync(self, number: int) -> int:
        """Bring the examples of a task into agreement with its annotation as it is now.

        Returns:
            How many examples the database has gained; below 0 where it has lost some.

        Raises:
            DatasetError: the task or its image cannot be had, or its annotation is not as Label Studio writes it.
        """
        task = self._client.task(number)
        stuff = self._stuff | {concept.label for concept in self._database.concepts() if not concept.thing}
        found = None if task is None else labelled_task(task, self._client.image, stuff)
        if found is None:
            change = -self._tidy(number, None, 0)
        else:
            example, annotation = found
            # First what is new: should the rest fail, there is rather too much than nothing.
            added = self._database.add(example, writer=self._writer(number, annotation)).added
            change = added - self._tidy(number, example, annotation)
        _log.info("task %d: %+d examples", number, change)
        return change

    def _tidy(self, number: int, example: LabelledImage | None, annotation: int) -> int:
        """Delete what a task gave before and does not show now; returns how many examples."""
        writers = [self._writer(*known) for known in self._writers() if known[0] == number]
        if not writers:
            return 0
        name, store = self._database.name, self._database.store
        prepared = [] if example is None else self._prepared(example)
        shown = {exact for one in prepared for exact, _ in one.contents(name)}
        same = {own for one in prepared for own in (*one.ids, *one.first_ids)}  # also where its concept was renamed
        stale: list[str] = []
        for records in store.scan(F("writer").isin(writers) & WHOLE, fields=CONTENT):
            rows = zip(records.ids.tolist(), contents(records.fields, name), strict=True)
            stale += [identity for identity, (exact, _) in rows if exact not in shown and identity not in same]
        for space in each_space(store) if stale else ():
            space.delete(ids=[one for whole, parts in families(space, stale).items() for one in (whole, *parts)])
        if example is not None:  # what stays, stays because of the annotation that counts now
            store.update({"writer": self._writer(number, annotation)}, where=F("writer").isin(writers))
        return len(stale)

    def _prepared(self, example: LabelledImage) -> list[ImageExamples]:
        return segments([example], None, 1, self._database.keys_for, self._database.concepts)[0]

    def _writer(self, task: int, annotation: int) -> str:
        """Who is said to have added an example."""
        return f"label-studio {self._client.host} task {task} annotation {annotation}"

    def _writers(self) -> set[tuple[int, int]]:
        """Task and annotation of every example that came from this Label Studio."""
        start = f"label-studio {self._client.host} task "
        found = [str(writer) for writer in self._database.store.count_by("writer")]
        words = [writer.removeprefix(start).split() for writer in found if writer.startswith(start)]
        return {(int(task), int(annotation)) for task, _, annotation in words}

    def wait(self, seconds: float | None = None) -> None:
        """Wait until what was noticed up to now is learnt."""
        self._worker.submit(lambda: None).result(seconds)

    def close(self) -> None:
        """Finish the task that is looked at, and forget those that wait; training again finds them."""
        self._worker.shutdown(cancel_futures=True)
        self._client.close()


@contextmanager
def _logged(what: str) -> Iterator[None]:
    """Nobody waits for the thread that learns, so what goes wrong there is logged."""
    try:
        yield
    except (KnnSegError, KnnStoreError) as error:
        _log.error("%s: %s", what, error)
    except Exception:
        _log.exception("%s", what)


def _address(task: Mapping[str, Any], config: LabelConfig) -> str:
    data = task.get("data")
    address = data.get(config.key) if isinstance(data, Mapping) else None
    if not isinstance(address, str):
        raise DatasetError("data", expected=f"the address of an image under {config.key!r}", got=repr(address))
    return address


def _numbers(given: object) -> list[int]:
    """The ids of what a notice speaks of, one thing or a list.

    Raises:
        DatasetError: it has none.
    """
    listed = given if isinstance(given, list) else [given]
    numbers = [one.get("id") for one in listed if isinstance(one, Mapping)]
    if len(numbers) < len(listed) or not all(type(number) is int for number in numbers):
        raise DatasetError("notice", expected="objects with an id, as Label Studio sends them", got=str(given)[:80])
    return [number for number in numbers if number is not None]
