"""A world for the launcher in which gcloud only writes down how it was called."""

import shutil
import subprocess
from pathlib import Path

from tests import tiny

HERE = Path(__file__).parent / "launch"
# All that the launcher needs besides gcloud: where the real one is installed, it can't be reached.
TOOLS = ("bash", "cat", "dirname", "gzip", "mkdir", "sed", "tar", "tr")


class World:
    """A folder with the only programs that the launcher finds, and what they have written."""

    def __init__(self, folder):
        self.folder, self.bin = folder, folder / "bin"
        self.bin.mkdir(parents=True)
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool))
        for name in ("gcloud", "sleep"):
            shutil.copy(HERE / f"fake_{name}", self.bin / name)
            (self.bin / name).chmod(0o755)
        self.env = {"PATH": str(self.bin), "FAKE": str(folder), "HOME": str(folder)}
        self.env["LC_ALL"] = "C.UTF-8"
        # A repository of its own: the archive is packed in earnest.
        self.root = folder / "repo"
        shutil.copytree(tiny.ROOT / "launch", self.root / "launch")
        for name in ("runs/old/big", ".git/x", ".venv/x", "gen/__pycache__/x", "gen/a file"):
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).write_text("")

    def bash(self, *arguments, **options):
        return subprocess.run(
            [self.bin / "bash", *map(str, arguments)],
            env=self.env, cwd=self.folder, capture_output=True, text=True, timeout=60, **options,
        )  # fmt: skip

    def launch(self, *arguments, code=0):
        run = self.bash(self.root / "launch" / "tpu_vm.sh", *arguments)
        assert run.returncode == code, run.stderr
        return run

    def fail(self, verb, *codes):
        (self.folder / f"{verb}.codes").write_text("".join(f"{code}\n" for code in codes))

    def calls(self):
        """Arguments of each call since the last look, without `compute tpus tpu-vm`."""
        path = self.folder / "calls"
        words = path.read_text().split("\0")[:-1] if path.exists() else []
        path.unlink(missing_ok=True)
        found = []
        while words:
            count = int(words.pop(0))
            found.append(words[3:count])
            assert words[:3] == ["compute", "tpus", "tpu-vm"]
            del words[:count]
        return found

    def verbs(self):
        return [call[0] for call in self.calls()]

    def sleeps(self):
        path = self.folder / "sleeps"
        return [int(line) for line in path.read_text().split()] if path.exists() else []
