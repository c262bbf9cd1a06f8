"""A store on the disk that fails when a test asks it to, and what tests of artifacts on a store share."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

from fsspec.implementations.local import LocalFileSystem

from al.run.object_store.keeping import use_store
from al.run.store import Run


class Shaky(LocalFileSystem):
    """A store on the disk whose `faults` come before its answers: {method: [exception to raise, or None to answer]}."""

    protocol = "shaky"
    cachable = False
    faults: dict[str, list] = {}
    puts: list[str] = []

    def __init__(self, **options):
        super().__init__(auto_mkdir=True, **options)

    @classmethod
    def _strip_protocol(cls, path):
        return LocalFileSystem._strip_protocol(str(path).removeprefix("shaky://"))

    def _meet(self, method):
        fault = self.faults[method].pop(0) if self.faults.get(method) else None
        if isinstance(fault, Exception):
            raise fault
        return fault

    def put_file(self, source, target, **options):
        fault = self._meet("put")
        super().put_file(source, target, **options)
        self.puts.append(target)
        if fault == "cut":
            Path(target).write_bytes(Path(source).read_bytes()[:-1])

    def get_file(self, source, target, **options):
        self._meet("get")
        super().get_file(source, target, **options)

    def cat_file(self, path, **options):
        self._meet("cat")
        return super().cat_file(path, **options)


def build(out, scratch, text="hello"):
    (out / "sub").mkdir()
    (out / "sub" / "a.txt").write_text(text)
    (out / "b.txt").write_text("second")


def publish(run, number=1):
    return run.stage("demo", version=1, inputs={}, params={"number": number}, build=build)


@contextmanager
def opened(path, url):
    with Run.create_or_open(path) as run:
        use_store(run, url)
        yield run


def stored_folders(base):
    return sorted(path.parent for path in base.glob("*/demo/*/manifest.json"))
