from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pytest
import torch
from torch import Tensor

from pudnet_bench.harness.console.progress import Display
from pudnet_bench.harness.measuring.device import Compute
from pudnet_bench.harness.planning.plan import Cell, Plan
from pudnet_bench.harness.running.cell import RunContext, obtain_artifact
from pudnet_bench.harness.training.artifacts import Artifact, ArtifactStore, Trained, TrainingSummary
from pudnet_bench.harness.training.meta_train import Training
from pudnet_bench.methods.base import Budget, Dataset, GroupStream, Method, MethodError, Session, Snapshot
from pudnet_bench.suites.groups import FamilyImages
from pudnet_bench.suites.sources.loading import Source

CHOSEN = 7


class Recorder(Method):
    """Learns one drawn tensor, and notes what each of its two trainings was given."""

    name: ClassVar[str] = "recorder"
    trainings: ClassVar[list[dict[str, Any]]] = []

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.weights = torch.zeros(4)

    def meta_train(self, groups: GroupStream, session: Session) -> None:
        validation = [group.fit.n_classes for group in groups.validation_groups()]
        batch = next(groups.batches(2000))
        self.trainings.append(
            {
                "classes": set(batch.labels.tolist()),
                "validation": len(validation),
                "at_most": session.budget.max_groups,
                "drawn": torch.rand(1).item(),
            }
        )
        self.weights = torch.randn(4)
        session.report(1, {"loss": 2.0})
        session.report(2, {"loss": 1.0, **({"validation_accuracy": 0.75} if validation else {})})
        session.chosen_groups = CHOSEN if validation else session.budget.max_groups

    def fit(self, dataset: Dataset) -> Iterator[Snapshot]:
        yield Snapshot(lambda images: images.new_zeros(len(images), dataset.n_classes))

    def state_dict(self) -> dict[str, Tensor]:
        return {"weights": self.weights}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.weights = state["weights"]


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path)


@pytest.fixture
def cell(plan_of: Callable[..., Plan]) -> Cell:
    Recorder.trainings.clear()
    (protonet,) = plan_of(methods=("protonet",)).cells
    return replace(protonet, method=Recorder, training=Training(0, Budget(40, 10, 3), 4))


@pytest.fixture
def obtain(cell: Cell, digits_images: FamilyImages, store: ArtifactStore, compute: Compute) -> Callable[[], Artifact]:
    def call() -> Artifact:
        with Display() as display:
            artifact = obtain_artifact(cell, RunContext(lambda family, split: digits_images, store, compute, display))
        assert artifact is not None
        return artifact

    return call


def test_the_search_holds_classes_out_and_the_final_training_has_all_for_the_chosen_groups(
    obtain: Callable[[], Artifact], cell: Cell
) -> None:
    artifact = obtain()
    search, final = Recorder.trainings
    assert search["classes"] == set(range(cell.family.training_classes - cell.family.validation_classes))
    assert final["classes"] == set(range(cell.family.training_classes))
    assert (search["validation"], final["validation"]) == (4, 0)
    assert (search["at_most"], final["at_most"]) == (40, CHOSEN)
    assert search["drawn"] == final["drawn"]  # both start from the same state
    assert artifact.meta["groups"] == CHOSEN
    assert artifact.meta["chosen_by_fold"] == [CHOSEN]
    assert artifact.meta["validation_accuracy_by_fold"] == [0.75]
    assert artifact.meta["search_seconds"] > 0
    assert artifact.meta["final_seconds"] > 0
    assert artifact.seconds == artifact.meta["search_seconds"] + artifact.meta["final_seconds"]


def test_the_global_random_state_before_does_not_matter(obtain: Callable[[], Artifact], store: ArtifactStore) -> None:
    torch.manual_seed(1)
    first = obtain().state["weights"]
    torch.manual_seed(2)
    (store.cache_dir / "artifacts").rename(store.cache_dir / "moved")
    assert torch.equal(obtain().state["weights"], first)
    assert len(Recorder.trainings) == 4


def test_an_artifact_comes_back_as_it_was_saved(
    obtain: Callable[[], Artifact], store: ArtifactStore, cell: Cell
) -> None:
    assert cell.artifact is not None
    assert not store.has(cell.artifact)
    assert store.load(cell.artifact) is None
    made = obtain()
    assert store.has(cell.artifact)
    loaded = store.load(cell.artifact)
    assert loaded is not None
    assert (loaded.key, loaded.seconds) == (made.key, made.seconds)
    assert loaded.meta == json.loads(json.dumps(made.meta))
    assert loaded.state.keys() == made.state.keys()
    assert torch.equal(loaded.state["weights"], made.state["weights"])
    assert torch.equal(obtain().state["weights"], made.state["weights"])
    assert len(Recorder.trainings) == 2  # one search, one final: the second call trained nothing


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("weights.safetensors", lambda data: data[:-1] + bytes([data[-1] ^ 1])),
        ("weights.safetensors", lambda data: data[: len(data) // 2]),
        ("weights.safetensors", None),
        ("meta.json", lambda data: data[: len(data) // 2]),
        ("meta.json", lambda data: b"[]"),
        ("meta.json", None),
    ],
    ids=["flipped bit", "cut weights", "no weights", "cut meta", "other meta", "no meta"],
)
def test_a_damaged_artifact_is_set_aside_and_trained_again(
    obtain: Callable[[], Artifact], store: ArtifactStore, cell: Cell, name: str, damage: Callable[[bytes], bytes] | None
) -> None:
    made = obtain()
    assert cell.artifact is not None
    folder = store.folder(cell.artifact)
    path = folder / name
    damaged = damage(path.read_bytes()) if damage else None
    if damaged is None:
        path.unlink()
    else:
        path.write_bytes(damaged)
    with pytest.warns(UserWarning, match=r"damaged.*set aside as .*\.corrupt; it is trained again"):
        again = obtain()
    assert len(Recorder.trainings) == 4
    assert torch.equal(again.state["weights"], made.state["weights"])
    aside = folder.with_name(folder.name + ".corrupt") / name
    assert (aside.read_bytes() if aside.exists() else None) == damaged
    assert store.load(cell.artifact) is not None


def test_an_artifact_damaged_again_replaces_the_one_in_quarantine(
    obtain: Callable[[], Artifact], store: ArtifactStore, cell: Cell
) -> None:
    assert cell.artifact is not None
    folder = store.folder(cell.artifact)
    for damage in (b"first", b"second"):
        obtain()
        (folder / "meta.json").write_bytes(damage)
        with pytest.warns(UserWarning, match="set aside as"):
            assert store.load(cell.artifact) is None
        assert (folder.with_name(folder.name + ".corrupt") / "meta.json").read_bytes() == damage


def test_the_curve_can_be_read_and_tells_the_phases_apart(
    obtain: Callable[[], Artifact], store: ArtifactStore, cell: Cell
) -> None:
    obtain()
    assert cell.artifact is not None
    curve = pd.read_parquet(store.folder(cell.artifact) / "curve.parquet")
    assert curve["phase"].tolist() == ["search 1", "search 1", "final", "final"]
    assert curve["groups"].tolist() == [1, 2, 1, 2]
    assert curve["loss"].tolist() == [2.0, 1.0, 2.0, 1.0]
    assert curve["validation_accuracy"].notna().tolist() == [False, True, False, False]


def test_meta_json_holds_every_input_of_the_key_in_clear(
    obtain: Callable[[], Artifact], store: ArtifactStore, cell: Cell, digits: Source
) -> None:
    obtain()
    assert cell.artifact is not None
    inputs = json.loads((store.folder(cell.artifact) / "meta.json").read_text())["inputs"]
    assert inputs == json.loads(json.dumps(cell.artifact.inputs))
    expected = {
        "method": "recorder",
        "options": dict(cell.options),
        "source": digits.fingerprint,
        "target": "convnet3",
        "image_shape": [1, 8, 8],
        "seed": 0,
        "class_split_seed": 0,
        "budget": asdict(cell.training.budget),
        "validation_groups": 4,
        "precision": "fp32",
        "device_type": "cpu",
    }
    assert {name: inputs[name] for name in expected} == expected
    assert inputs["family"]["training_classes"] == 6


def test_nothing_is_pickled(obtain: Callable[[], Artifact], store: ArtifactStore, cell: Cell) -> None:
    obtain()
    assert cell.artifact is not None
    files = [path for path in store.cache_dir.rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert {path.name for path in files} == {
        "weights.safetensors",
        "search-0.safetensors",
        "meta.json",
        "curve.parquet",
    }
    assert {path.parent for path in files} == {store.folder(cell.artifact)}  # and nothing partial is left
    for path in files:
        assert not zipfile.is_zipfile(path)  # what torch.save writes
        with pytest.raises(Exception):  # noqa: B017, PT011 - each kind of file fails in its own way
            pickle.loads(path.read_bytes())


def test_the_artifact_of_another_process_that_was_first_stays(
    obtain: Callable[[], Artifact], store: ArtifactStore, cell: Cell
) -> None:
    made = obtain()
    assert cell.artifact is not None
    state = {"weights": torch.ones(4)}
    summary = TrainingSummary(
        groups=1, chosen_by_fold=[1], validation_accuracy_by_fold=[None], base_seconds=0.0, search_seconds=9.0,
        final_seconds=9.0, processes=1,
    )  # fmt: skip
    store.save(cell.artifact, Trained(state, (state,), pd.DataFrame({"groups": [1]}), summary))
    loaded = store.load(cell.artifact)
    assert loaded is not None
    assert torch.equal(loaded.state["weights"], made.state["weights"])
    assert [path.name for path in (store.cache_dir / "artifacts").iterdir()] == [made.key]


def test_a_real_method_trains_the_same_twice(
    plan_of: Callable[..., Plan], digits_images: FamilyImages, compute: Compute, tmp_path: Path
) -> None:
    (cell,) = plan_of(methods=("pretrained",)).cells
    cell = replace(cell, training=Training(0, Budget(10, 5, 3), 2))
    states = []
    with Display() as display:
        for name in ("first", "second"):
            artifact = obtain_artifact(
                cell, RunContext(lambda family, split: digits_images, ArtifactStore(tmp_path / name), compute, display)
            )
            assert artifact is not None
            states.append(artifact.state)
    assert states[0].keys() == states[1].keys() != set()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    torch.manual_seed(cell.seed)
    fresh = cell.make_method().state_dict()
    assert any(not torch.equal(states[0][name], fresh[name]) for name in fresh)  # it did learn


def test_a_method_that_starts_from_another_gets_its_state_of_the_same_phase(
    plan_of: Callable[..., Plan], digits_images: FamilyImages, compute: Compute, tmp_path: Path
) -> None:
    """The search must not begin with weights that have seen the validation classes."""
    plan = plan_of(methods=("pretrained", "meta-baseline"))
    short = [replace(c, training=Training(0, Budget(4, 2, 2), 2)) for c in plan.cells]
    base = short[0]
    cell = replace(short[1], base=base)
    begun = []

    class Watched(cell.method):  # type: ignore[name-defined]
        def start_from(self, base: Method) -> None:
            begun.append({name: tensor.clone() for name, tensor in base.state_dict().items()})
            super().start_from(base)

    store = ArtifactStore(tmp_path)
    with Display() as display:
        pretrained = obtain_artifact(base, RunContext(lambda family, split: digits_images, store, compute, display))
        watched = replace(cell, method=Watched)
        made = obtain_artifact(watched, RunContext(lambda family, split: digits_images, store, compute, display))
    assert pretrained is not None
    assert made is not None
    assert len(list((tmp_path / "artifacts").iterdir())) == 2  # the pretrained one was not trained again
    for state, expected in zip(begun, (*pretrained.search_states, pretrained.state), strict=True):
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[name], expected[name]) for name in expected)
    assert not all(torch.equal(begun[0][name], begun[1][name]) for name in begun[0])
    assert made.meta["base_seconds"] == pretrained.seconds
    assert made.seconds > pretrained.seconds


def test_the_base_of_a_plan_is_the_row_of_its_own_suite(plan_of: Callable[..., Plan]) -> None:
    cells = {cell.variant.name: cell for cell in plan_of().cells}
    base = cells["meta-baseline"].base
    assert base is not None
    assert base.artifact == cells["pretrained"].artifact
    alone = plan_of(methods=("meta-baseline",))
    assert {spec.inputs["method"] for spec in alone.artifacts.values()} == {"meta-baseline", "pretrained"}


def test_each_fold_holds_other_classes_out_and_the_median_length_is_trained(
    cell: Cell, digits: Source, store: ArtifactStore, compute: Compute
) -> None:
    folded = replace(cell.family, validation_folds=3)
    images = FamilyImages(folded, digits, compute.device)
    held_out = []
    lengths = iter((30, 10, 20))

    class Folded(Recorder):
        def meta_train(self, groups: GroupStream, session: Session) -> None:
            super().meta_train(groups, session)
            if session.chosen_groups == CHOSEN:
                session.chosen_groups = next(lengths)
                held_out.append(set(images.split.training) - set(groups.classes))  # type: ignore[attr-defined]

    with Display() as display:
        asked = replace(cell, method=Folded, family=folded, trained_on=folded)
        made = obtain_artifact(asked, RunContext(lambda family, split: images, store, compute, display))
    assert made is not None
    assert (made.groups, made.meta["chosen_by_fold"]) == (20, [30, 10, 20])
    assert Recorder.trainings[-1]["at_most"] == 20
    assert len(made.search_states) == 3
    assert [len(classes) for classes in held_out] == [2, 2, 2]
    assert set().union(*held_out) == set(images.split.training)


@pytest.mark.parametrize("name", ["pretrained", "pudnet", "meta-deepbdc", "meta-baseline", "musml"])
def test_milestones_are_the_states_on_the_way_of_one_training(
    plan_of: Callable[..., Plan], digits_images: FamilyImages, compute: Compute, tmp_path: Path, name: str
) -> None:
    cells = plan_of(methods=(name,), training_groups=(8, 2, 5)).cells
    assert [cell.training_groups for cell in cells] == [2, 5, 8]
    store = ArtifactStore(tmp_path)
    with Display() as display:
        made = [
            obtain_artifact(c, RunContext(lambda family, split: digits_images, store, compute, display)) for c in cells
        ]
    assert [artifact.groups for artifact in made if artifact is not None] == [2, 5, 8]
    first, _, last = (artifact for artifact in made if artifact is not None)
    assert 0 < first.meta["final_seconds"] < last.meta["final_seconds"]
    assert any(not torch.equal(first.state[key], last.state[key]) for key in first.state)
    trained = [path.name for path in (tmp_path / "artifacts").iterdir() if path.name.startswith(f"{name}-digits")]
    assert len(trained) == 3
    longest = cells[-1]
    assert longest.artifact is not None
    straight = ArtifactStore(tmp_path / "straight")
    alone = replace(longest, training=replace(longest.training, milestones=(8,)))
    with Display() as display:
        again = obtain_artifact(alone, RunContext(lambda family, split: digits_images, straight, compute, display))
    assert again is not None
    assert all(torch.equal(again.state[key], last.state[key]) for key in last.state)  # saving states changes nothing


def test_a_method_that_saves_no_milestone_is_refused(
    plan_of: Callable[..., Plan], digits_images: FamilyImages, store: ArtifactStore, compute: Compute
) -> None:
    protonet, _ = plan_of(methods=("protonet",), training_groups=(3, 5)).cells
    with (
        Display() as display,
        pytest.raises(MethodError, match=r"saved no state after 3 groups.*session\.save_milestone"),
    ):
        obtain_artifact(
            replace(protonet, method=Recorder), RunContext(lambda family, split: digits_images, store, compute, display)
        )
