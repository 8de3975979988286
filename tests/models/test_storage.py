"""Our files and folders: round trips, shards, the hub, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from parity import SPEC

from geo4d.errors import CheckpointError, ConfigError
from geo4d.models.geometry_model import GeometryModel, build_model
from geo4d.models.presets import PRESETS
from geo4d.models.storage import load_model, push_to_hub, save_folder


@pytest.fixture(scope="module")
def model() -> GeometryModel:
    return build_model(PRESETS["tiny"]).eval()


def assert_same(one: GeometryModel, other: GeometryModel) -> None:
    assert one.spec == other.spec
    for (name, value), same in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(value, same), name


def test_folder_round_trip_in_shards(model: GeometryModel, tmp_path: Path) -> None:
    save_folder(model, tmp_path / "m", max_shard_size="1MB", notice="mine", notes={"a": 1})
    names = sorted(entry.name for entry in (tmp_path / "m").iterdir())
    assert names[:2] == ["NOTICE.md", "config.json"]
    assert names[-1] == "model.safetensors.index.json"
    assert len([name for name in names if name.endswith(".safetensors")]) > 2
    loaded = load_model(tmp_path / "m")
    assert_same(loaded, model)
    assert not loaded.training
    assert (tmp_path / "m" / "NOTICE.md").read_text() == "mine"
    assert json.loads((tmp_path / "m" / "config.json").read_text())["notes"] == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["m"]  # nothing half written beside it


def test_specs_from_before_there_were_encoders_mean_none(tmp_path: Path) -> None:
    """Files that do not say have latents of 4 channels and no frame encoder, as the released model."""
    from dataclasses import replace

    tiny = PRESETS["tiny"]
    old = build_model(replace(tiny, encoder={}, unet={**tiny.unet, "in_channels": 20})).eval()
    save_folder(old, tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    del config["spec"]["encoder"]
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    loaded = load_model(tmp_path / "m")
    assert_same(loaded, old)
    assert loaded.spec.latent_channels == 4 and loaded.spec.feature_channels == 0
    assert not any("frame_encoder" in name or name.endswith((".int8", ".scale")) for name in loaded.state_dict())


def test_a_full_architecture_with_its_towers_comes_back(tmp_path: Path) -> None:
    """Context tokens, image tower and query transformer are part of the folder.

    Numbers no file stores are made anew.
    """
    from dataclasses import replace

    one = build_model(replace(SPEC, per_frame=True)).eval()
    save_folder(one, tmp_path / "m")
    loaded = load_model(tmp_path / "m")
    assert_same(one, loaded)
    images = torch.rand(2, 3, 64, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(one.image_tokens(images), loaded.image_tokens(images))


def test_dtype_is_that_of_the_networks_alone(model: GeometryModel, tmp_path: Path) -> None:
    save_folder(model, tmp_path / "m")
    half = load_model(tmp_path / "m", dtype=torch.bfloat16)
    assert half.dtype == half.autoencoder.dtype == torch.bfloat16
    assert half.normalizer.std("rgb").dtype == torch.float32
    images = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        latents = half.encode_rgb(images)
        assert latents.dtype == half.decode_images("rgb", latents).dtype == torch.float32
        assert (latents - model.encode_rgb(images)).abs().mean() < 0.02 * latents.abs().mean()


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _other_format(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"format": "x", "spec": {}}))


def _no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def _unknown_setting(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["spec"]["colour"] = "blue"
    (folder / "config.json").write_text(json.dumps(config))


def _impossible_network(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["spec"]["unet"]["model_channels"] = "many"
    (folder / "config.json").write_text(json.dumps(config))


def _shard_gone(folder: Path) -> None:
    next(folder.glob("*-00002-*.safetensors")).unlink()


def _shard_cut(folder: Path) -> None:
    shard = next(folder.glob("*-00001-*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-10])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_no_config, "not a geo4d model folder"),
        (_other_format, "is not a geo4d model's"),
        (_no_json, "JSON that geo4d wrote"),
        (_unknown_setting, "does not describe a geo4d model"),
        (_impossible_network, "does not describe a model that can be built"),
        (_shard_gone, "does not fit its own spec: .* missing"),
        (_shard_cut, "is not a safetensors file"),
    ],
)
def test_damaged_folders_are_refused(
    damage: Callable[[Path], None], message: str, model: GeometryModel, tmp_path: Path
) -> None:
    save_folder(model, tmp_path / "m", max_shard_size="1MB")
    damage(tmp_path / "m")
    with pytest.raises(CheckpointError, match=message):
        load_model(tmp_path / "m")


def test_a_folder_is_never_overwritten(model: GeometryModel, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("dear")
    with pytest.raises(CheckpointError, match="is not an empty folder"):
        save_folder(model, tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine.txt"]


def test_a_full_disk_leaves_nothing_behind(
    model: GeometryModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("geo4d.models.storage.save_torch_state_dict", full)
    with pytest.raises(CheckpointError, match="No space left"):
        save_folder(model, tmp_path / "m")
    assert not list(tmp_path.iterdir())


def test_a_vae_goes_with_released_files_alone(model: GeometryModel, tmp_path: Path) -> None:
    save_folder(model, tmp_path / "m")
    with pytest.raises(ConfigError, match="vae goes with a released checkpoint alone"):
        load_model(tmp_path / "m", vae=tmp_path / "vae.ckpt")


def test_from_the_hub(model: GeometryModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's own client is replaced by a folder; what is asked of it and what comes back is ours."""
    asked = []

    def snapshot_download(name: str, **options: object) -> str:
        asked.append((name, options))
        return str(tmp_path / "m")

    save_folder(model, tmp_path / "m")
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert_same(load_model("someone/geo4d-test"), model)
    assert asked[0][0] == "someone/geo4d-test"
    assert "config.json" in asked[0][1]["allow_patterns"]  # type: ignore[operator]


def test_an_unreachable_hub_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="There is no folder someone/geo4d-test, and the hub") as caught:
        load_model("someone/geo4d-test")
    assert "\n" not in str(caught.value)


def test_to_the_hub(model: GeometryModel, monkeypatch: pytest.MonkeyPatch) -> None:
    uploaded: dict[str, object] = {}

    class Reply:
        repo_id = "someone/m"
        commit_url = "address"

    def upload(_: object, *, folder_path: Path, repo_id: str, commit_message: str) -> Reply:
        uploaded.update(
            files=sorted(entry.name for entry in folder_path.iterdir()), repo_id=repo_id, message=commit_message
        )
        return Reply()

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", lambda *_, **__: Reply())
    monkeypatch.setattr("huggingface_hub.HfApi.upload_folder", upload)
    assert push_to_hub(model, "m") == "address"
    assert uploaded == {
        "files": ["NOTICE.md", "config.json", "model.safetensors"],
        "repo_id": "someone/m",
        "message": "Upload geo4d model",
    }
