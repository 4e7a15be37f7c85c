"""Members of enums in `.metadata`, as each Python writes them."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING

from slogpt_hf.checkpoints.containers import distributed
from slogpt_hf.errors import CheckpointError

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


def saved(folder: Path) -> Path:
    dcp.save({"w": torch.ones(2, 3)}, checkpoint_id=folder, no_dist=True)
    return folder / ".metadata"


class ByName(pickle._Pickler):  # the one in C takes no `save` of a subclass
    """Writes a member as Python 3.11.0 to 3.11.3 do (``Enum.__reduce_ex__``)."""

    target: object = _MEM_FORMAT_ENCODING

    def save(self, obj: object, save_persistent_id: bool = True) -> None:
        if isinstance(obj, _MEM_FORMAT_ENCODING):
            self.save_reduce(getattr, (self.target, obj.name), obj=obj)
        else:
            super().save(obj, save_persistent_id)


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_member_by_its_name(tmp_path: Path, protocol: int) -> None:
    path = saved(tmp_path)
    value = pickle.loads(path.read_bytes())
    with path.open("wb") as file:
        ByName(file, protocol).dump(value)
    assert b"getattr" in path.read_bytes()
    assert distributed.read(tmp_path).value["w"].shape == (2, 3)


def test_of_anything_else_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path)
    value = pickle.loads(path.read_bytes())
    monkeypatch.setattr(ByName, "target", torch.Size)
    with path.open("wb") as file:
        ByName(file, 2).dump(value)
    with pytest.raises(CheckpointError):
        distributed.read(tmp_path)
