"""Everything that imports torchvision can be imported after our networks, in a fresh process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_torchvision_and_its_users_import() -> None:
    code = "import geo4d.models._torchvision, torchvision, transformers; "
    code += "from transformers import CLIPModel; print(CLIPModel.__name__)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False, cwd=ROOT
    )
    assert done.stdout.strip() == "CLIPModel", done.stderr[-2000:]
