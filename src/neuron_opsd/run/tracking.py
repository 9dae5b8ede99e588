"""What a run has found so far, sent to an experiment tracker (`--track`). No record changes by it.

A fact is sent once: `RUN/tracking/NAME.json` says what was sent, so a run that resumes goes on in the same tracker run.
Verdicts are read from results that are already written: nothing here can open a gold answer.
"""

import importlib.util
import logging
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from neuron_opsd.config.graph import GOLD_LABELS, STAGES_BEFORE
from neuron_opsd.errors import ConfigError
from neuron_opsd.results import DomainResult, MeanResult, Results
from neuron_opsd.run.trackers import TRACKERS, Tracker
from neuron_opsd.store.files import dump_json, file_digest, read_json, read_json_lines, write_text
from neuron_opsd.store.run_folder import RESULTS, RunFolder
from neuron_opsd.store.stage_folder import fingerprint_of

logger = logging.getLogger(__name__)


def check_tracker(name: str) -> None:
    """Refuse a tracker that is unknown or not installed.

    Raises:
        ConfigError: says which there are, or what to install.
    """
    if name not in TRACKERS:
        raise ConfigError(f"--track is {name!r}. It must be one of {', '.join(TRACKERS)}.")
    package = TRACKERS[name].package
    if importlib.util.find_spec(package) is None:
        raise ConfigError(
            f"--track {name} needs {package}, which is not installed. Run: pip install {package}"
        )


class Tracking:
    """One run's facts in one tracker.

    Args:
        name: One of `TRACKERS`.
        folder: The run.
    """

    def __init__(self, name: str, folder: RunFolder) -> None:
        self.name, self.folder = name, folder
        self.file = folder.path / "tracking" / f"{name}.json"
        settings = folder.config().model_dump(mode="json")
        self.sent = read_json(self.file) or {}
        self.tracker: Tracker | None = None
        self._settings = settings
        if self.sent.get("settings") != fingerprint_of(settings):  # other settings are another run
            self._begin()

    def _begin(self) -> None:
        """Another run of the tracker, to which nothing was sent."""
        if self.tracker is not None:
            self._try(self.tracker.close)
            self.tracker = None
        self.sent = {
            "settings": fingerprint_of(self._settings),
            "id": uuid.uuid4().hex[:12],
            "facts": {},
            "step": 0,
        }

    def catch_up(self) -> None:
        """Send what the run has found since. Where the tracker fails, the log says so and the run goes on."""
        self._try(self._send)

    def _try(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # of a tracker, or of its server: there is no list of what they raise
            logger.warning(
                "tracking: %s failed (%s: %s). The run goes on. The same command sends later what is missing",
                self.name, type(error).__name__, " ".join(str(error).split())[:300],
            )  # fmt: skip

    def close(self) -> None:
        """Send the rest, and end the tracker's own run."""
        self.catch_up()
        if self.tracker is not None:
            self._try(self.tracker.close)

    def _send(self) -> None:
        training = self.folder.stage("training").manifest()
        if training and training["fingerprint"] != self.sent.setdefault("training", training["fingerprint"]):
            self._begin()  # another training under equal settings, as of a question file that changed
            self.sent["training"] = training["fingerprint"]
        for name in STAGES_BEFORE:
            manifest = self.folder.stage(name).manifest()
            if name == GOLD_LABELS or not manifest or not manifest["complete"]:
                continue
            if self._is_new(name, manifest["fingerprint"]):
                summary = manifest["summary"]
                self._started().log(_numbers(summary, name))
                if name == "preflight":
                    reasons = "; ".join(summary["reasons"])
                    self._started().say("preflight_verdict", f"{summary['verdict']}, because {reasons}")
                self._note(name, manifest["fingerprint"])
        # A resumed training makes the rows since its checkpoint again.
        for row in read_json_lines(self.folder.path / "training" / "metrics.jsonl"):
            if row["step"] > self.sent["step"]:
                self._started().log(_numbers(row, "training"), step=row["step"])
                self.sent["step"] = row["step"]
                self._save()
        results = self.folder.path / RESULTS
        if results.is_file() and self._is_new(RESULTS, digest := file_digest(results)):
            found = self.folder.load_result(RESULTS, Results)
            if found:
                self._started().log(dict(_result_numbers(found)))
                self._started().say("verdicts", "\n".join(found.verdicts))
                self._note(RESULTS, digest)

    def _started(self) -> Tracker:
        if self.tracker is None:
            place = self.folder.path / "tracking" / self.name
            place.mkdir(parents=True, exist_ok=True)
            self.tracker = TRACKERS[self.name](
                place.absolute(),
                run_id=self.sent["id"],
                name=self.folder.path.absolute().name,
                settings=self._settings,
            )
            self._save()
        return self.tracker

    def _is_new(self, fact: str, fingerprint: str) -> bool:
        return self.sent["facts"].get(fact) != fingerprint

    def _note(self, fact: str, fingerprint: str) -> None:
        self.sent["facts"][fact] = fingerprint
        self._save()

    def _save(self) -> None:
        write_text(self.file, dump_json(self.sent))


def _numbers(values: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """The numbers of a nested mapping by their path: `training/published/kl_lost`. Lists of measures go by name."""
    found: dict[str, float] = {}
    for key, value in values.items():
        path = f"{prefix}/{key}"
        if isinstance(value, Mapping):
            found |= _numbers(value, path)
        elif isinstance(value, list):
            named = {item["name"]: item for item in value if isinstance(item, Mapping) and "name" in item}
            found |= _numbers(named, path)
        elif isinstance(value, int | float) and not isinstance(value, bool) and key != "step":
            found[path] = float(value)
    return found


def _result_numbers(results: Results) -> Iterator[tuple[str, float]]:
    """Every metric of both models, and the difference with its interval, by domain."""
    blocks: dict[str, DomainResult | MeanResult | None] = {
        results.train_domain: results.in_domain,
        **results.own,
        **results.cross.domains,
        "cross_mean": results.cross.mean,
    }
    if results.general:
        blocks |= {f"general/{name}": block for name, block in results.general.domains.items()}
        yield "evaluation/general/kl_from_base", results.general.kl_from_base.value
    for domain, block in blocks.items():
        for name, metric in block.metrics.items() if block else ():
            figures = {
                "base": metric.base.value,
                "trained": metric.trained.value,
                "difference": metric.difference.value,
                "difference_low": metric.difference.low,
                "difference_high": metric.difference.high,
            }
            for figure, value in figures.items():
                if value is not None:
                    yield f"evaluation/{domain}/{name}/{figure}", value
