# SPDX-License-Identifier: Apache-2.0
"""A program that two sides share: segments, transfers, trust, and the choice between them."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from ingot import Model, backends
from ingot._native import native
from ingot.backends import Choice, Device, check_backend, choose, devices
from ingot.cli import main
from ingot.errors import HardwareError, InvalidArgumentError, MemoryLimitError, MissingExtraError

PROMPT = [1, 20, 300, 4, 50, 600, 7]


@pytest.fixture(scope="module")
def sample(repo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the library that takes the norms and leaves the rest."""
    library = tmp_path_factory.mktemp("backend") / "sample.so"
    source = repo_root / "tests" / "native" / "backend_sample.c"
    include = repo_root / "native" / "include"
    options = ["-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    command = ["cc", *options, f"-I{include}", str(source), "-lm", "-o", str(library)]
    subprocess.run(command, check=True)
    return str(library)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INGOT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("INGOT_SAMPLE_FAULT", raising=False)
    monkeypatch.delenv("INGOT_CANARY", raising=False)


def test_both_sides_make_the_text_of_one(lantern_ingot: Path, sample: str) -> None:
    with (
        Model(lantern_ingot) as alone,
        Model(lantern_ingot, backend=sample) as shared,
        alone.session(threads=1) as one,
        shared.session(threads=2) as two,
    ):
        expected, found = one.logits(PROMPT), two.logits(PROMPT)
        # An activation that is rounded the other way moves a logit by a tenth; hence the mean.
        assert abs(found - expected).mean() < 2e-3 * np.ptp(expected)
        assert (found.argmax(axis=1) == expected.argmax(axis=1)).all()
        text = two.generate(PROMPT, max_tokens=40).token_ids
        assert text == one.generate(PROMPT, max_tokens=40).token_ids
        taken = shared.taken()
        assert 0 < sum(taken) < len(taken) and not any(alone.taken())
        passes = two.executed("cpu") / (len(taken) - sum(taken))
        assert two.executed(sample) == pytest.approx(passes * sum(taken), rel=0.1)
        assert two.memory().device_bytes > 0 == one.memory().device_bytes


def test_sessions_of_a_backend_fork_save_and_cut(
    lantern_ingot: Path, sample: str, tmp_path: Path
) -> None:
    with Model(lantern_ingot, backend=sample) as model:
        with model.session(threads=1) as session:
            session.feed(PROMPT)
            with session.fork() as child:
                ahead = child.generate([9], max_tokens=8).token_ids
            session.save(tmp_path / "state")
            assert session.generate([9], max_tokens=8).token_ids == ahead
        with model.restore(tmp_path / "state") as again:
            assert again.generate([9], max_tokens=8).token_ids == ahead


@pytest.mark.parametrize("fault", ["norm", "stale"])
def test_verify_names_the_op_that_is_wrong(
    lantern_ingot: Path,
    sample: str,
    fault: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["verify", str(lantern_ingot), "--backend", sample, "--against", "reference"]
    assert main(words) == 1  # the linears ran elsewhere
    assert "did not run on" in capsys.readouterr().out
    assert main([*words, "--allow-split"]) == 0
    capsys.readouterr()
    monkeypatch.setenv("INGOT_SAMPLE_FAULT", fault)
    assert main([*words, "--allow-split"]) == 1
    said = capsys.readouterr().out
    assert "FAIL  against reference" in said and ", rms_norm -> " in said


def test_a_rebuilt_backend_is_tried_again(
    lantern_ingot: Path, sample: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was found of a library holds for its content, not for its name."""
    library = Path(shutil.copy(sample, tmp_path / "copy.so"))
    with Model(lantern_ingot) as model:
        device = devices(model.native, str(library))[0]
        assert check_backend(model, device) == ()
        monkeypatch.setenv("INGOT_SAMPLE_FAULT", "norm")
        assert check_backend(model, device) == ()  # known, not tried
        with library.open("ab") as file:
            file.write(b"another build")
        assert check_backend(model, device)


def test_a_trial_that_failed_is_made_again(
    lantern_ingot: Path, sample: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "NAMES", ("cpu", sample))
    with Model(lantern_ingot) as model:
        monkeypatch.setenv("INGOT_SAMPLE_FAULT", "full")
        assert "no memory" in choose(model, software=True).reasons[-1]
        monkeypatch.delenv("INGOT_SAMPLE_FAULT")
        assert "ms a turn" in choose(model, software=True).reasons[-1]


def test_a_profile_is_of_the_cpu(lantern_ingot: Path, sample: str) -> None:
    assert main(["bench", str(lantern_ingot), "--backend", sample, "--profile"]) == 2


def test_a_wrong_device_is_left_for_the_cpu(
    lantern_ingot: Path,
    sample: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with Model(lantern_ingot) as model, model.session() as session:
        expected = session.generate(PROMPT, max_tokens=20).token_ids
    monkeypatch.setenv("INGOT_SAMPLE_FAULT", "norm")
    with caplog.at_level(logging.WARNING), Model(lantern_ingot, backend=sample) as model:
        with model.session() as session:
            assert session.generate(PROMPT, max_tokens=20).token_ids == expected
            assert model.backend == "cpu"
        assert model.backend == "cpu"
    assert "is wrong on this device" in caplog.text


@pytest.mark.parametrize(
    ("fault", "kind", "text"),
    [("refuse", HardwareError, "no device"), ("abi", MissingExtraError, "another build")],
)
def test_a_device_that_is_refused_says_why(
    lantern_ingot: Path,
    sample: str,
    fault: str,
    kind: type[Exception],
    text: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("INGOT_SAMPLE_FAULT", fault)
    with pytest.raises(kind, match=text):
        Model(lantern_ingot, backend=sample)


def test_copies_of_the_device_count_against_the_limit(
    lantern_ingot: Path, sample: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Model(lantern_ingot, backend=sample) as model:
        model.session(threads=1, memory_limit="1G").close()
        monkeypatch.setenv("INGOT_SAMPLE_FAULT", "weights")
        with pytest.raises(MemoryLimitError, match=r"1099.* GB of them on the device; the limit"):
            model.session(threads=1, memory_limit="1G")


def test_a_lost_device_is_an_error_and_feeds_nothing(
    lantern_ingot: Path, sample: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Model(lantern_ingot, backend=sample) as model, model.session(threads=1) as session:
        session.feed(PROMPT)
        monkeypatch.setenv("INGOT_SAMPLE_FAULT", "lost")
        with pytest.raises(HardwareError, match="sample: the device is lost"):
            session.feed([5])
        assert session.token_count == len(PROMPT)


def test_unknown_and_missing_backends(lantern_ingot: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="cpu, vulkan, cuda, auto"):
        Model(lantern_ingot, backend="opencl")
    with pytest.raises(MissingExtraError, match="not installed"):
        Model(lantern_ingot, backend=str(tmp_path / "none.so"))
    with (
        Model(lantern_ingot) as model,
        model.session(threads=1) as session,
        pytest.raises(InvalidArgumentError, match="cpu, vulkan"),
    ):
        session.executed("opencl")


def test_devices_are_described(sample: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert devices(native(), sample) == [Device(sample, 0, "sample", "1", "software", 0, "", "")]
    monkeypatch.setenv("INGOT_SAMPLE_FAULT", "refuse")
    assert devices(native(), sample)[0].refused == "planted"


def test_auto_measures_each_device_once(
    lantern_ingot: Path, sample: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "NAMES", ("cpu", sample))
    with Model(lantern_ingot) as model:
        assert choose(model).reasons == (
            f"{sample} sample: the CPU itself",
            "no other device can be used",
        )
        choice = choose(model, software=True)
        assert len(choice.reasons) == 2
        assert all("ms a turn" in reason for reason in choice.reasons)
        assert choose(model, software=True) == choice  # kept: the times are the same
    with Model(lantern_ingot, backend="auto") as model:
        assert model.backend == "cpu" and isinstance(model.choice, Choice)


def test_auto_takes_the_device_that_wins(
    lantern_ingot: Path, sample: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "NAMES", ("cpu", sample))
    seconds = {"cpu": 2.0, sample: 1.0}
    monkeypatch.setattr(backends, "_turn_seconds", lambda model, name, device: seconds[name])
    with Model(lantern_ingot) as model:
        assert choose(model, software=True).backend == sample


def test_whoever_waits_for_the_weights_is_told(lantern_ingot: Path, sample: str) -> None:
    told: list[tuple[int, int]] = []
    with Model(lantern_ingot, backend=sample, progress=lambda *both: told.append(both)) as model:
        assert told == [(model.info.weights_size, model.info.weights_size)]


def test_a_failure_while_somebody_watches_is_the_same(
    lantern_ingot: Path, sample: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INGOT_SAMPLE_FAULT", "refuse")
    with pytest.raises(HardwareError, match="no device of this number"):
        Model(lantern_ingot, backend=sample, progress=lambda done, total: None)


def test_inspect_shows_the_split(
    lantern_ingot: Path,
    sample: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["inspect", str(lantern_ingot), "--backend", sample]
    assert main([*words, "--json"]) == 0
    split = json.loads(capsys.readouterr().out)["split"]
    assert {entry["op"] for entry in split["cpu"]} == {"embed", "linear", "rope", "attention"}
    assert main(words) == 0
    assert f"runs {len(split['taken'])} of" in capsys.readouterr().out
