"""Files go up and come down whole, or not at all."""

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agentmesh.api.artifact.v1 import artifact_service_pb2 as pb
from agentmesh.api.types.v1 import types_pb2
from agentmesh.client import AsyncClient
from agentmesh.kit.auth import PUBLIC, Keyring
from agentmesh.kit.errors import Internal, NotFound, Unavailable
from agentmesh.kit.ids import new_id
from agentmesh.kit.rpc_server import Call
from tests.support.serving import serving

LARGE = bytes(range(256)) * 16_000  # 4 MB


class FakeArtifacts:
    """Keeps bytes in memory; cuts a read after each of `cut_after` bytes, once."""

    def __init__(self) -> None:
        self.stored: dict[str, tuple[types_pb2.Artifact, bytes]] = {}
        self.cut_after: list[int] = []
        self.methods: list[str] = []
        self.refuse = 0

    def _store(self, name: str, media_type: str, content: bytes) -> types_pb2.Artifact:
        if self.refuse:
            self.refuse -= 1
            raise Unavailable("not now")
        artifact = types_pb2.Artifact(
            artifact_id=new_id(),
            name=name,
            media_type=media_type,
            size_bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
        )
        self.stored[artifact.artifact_id] = (artifact, content)
        return artifact

    async def upload_artifact(self, request: pb.UploadArtifactRequest, call: Call) -> pb.UploadArtifactResponse:
        self.methods.append("UploadArtifact")
        return pb.UploadArtifactResponse(artifact=self._store(request.name, request.media_type, request.content))

    async def create_artifact(
        self, requests: AsyncIterator[pb.CreateArtifactRequest], call: Call
    ) -> pb.CreateArtifactResponse:
        self.methods.append("CreateArtifact")
        head = await anext(requests)
        content = head.content + b"".join([request.content async for request in requests])
        return pb.CreateArtifactResponse(artifact=self._store(head.name, head.media_type, content))

    async def read_artifact(
        self, request: pb.ReadArtifactRequest, call: Call
    ) -> AsyncIterator[pb.ReadArtifactResponse]:
        self.methods.append(f"ReadArtifact@{request.offset}")
        content = self._find(request.artifact_id)[1]
        end = request.offset + self.cut_after.pop(0) if self.cut_after else len(content)
        for start in range(request.offset, end, 100_000):
            yield pb.ReadArtifactResponse(content=content[start : min(start + 100_000, end)])
        if end < len(content):
            raise Unavailable("cut")

    async def get_artifact(self, request: pb.GetArtifactRequest, call: Call) -> pb.GetArtifactResponse:
        return pb.GetArtifactResponse(artifact=self._find(request.artifact_id)[0])

    async def list_artifacts(self, request: pb.ListArtifactsRequest, call: Call) -> pb.ListArtifactsResponse:
        return pb.ListArtifactsResponse()

    async def delete_artifact(self, request: pb.DeleteArtifactRequest, call: Call) -> pb.DeleteArtifactResponse:
        return pb.DeleteArtifactResponse()

    def _find(self, artifact_id: str) -> tuple[types_pb2.Artifact, bytes]:
        if artifact_id not in self.stored:
            raise NotFound("there is no such artifact")
        return self.stored[artifact_id]


@pytest.fixture
def artifacts() -> FakeArtifacts:
    """A store in memory."""
    return FakeArtifacts()


@pytest.fixture
async def client(artifacts: FakeArtifacts) -> AsyncIterator[AsyncClient]:
    """A client of that store."""
    service = pb.DESCRIPTOR.services_by_name["ArtifactService"]
    keyring = Keyring("for tests")
    async with serving([(service, artifacts, PUBLIC)], keyring=keyring) as address, AsyncClient(address) as made:
        yield made


async def test_small_file_goes_up_in_one_message(client: AsyncClient, artifacts: FakeArtifacts, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_bytes(b"a,b\n1,2\n")
    artifact = await client.upload(tmp_path / "table.csv")
    assert (artifact.name, artifact.media_type, artifact.size_bytes) == ("table.csv", "text/csv", 8)
    assert artifacts.methods == ["UploadArtifact"]


@pytest.mark.parametrize("from_file", [True, False])
async def test_large_content_is_streamed_and_comes_back_equal(
    client: AsyncClient, artifacts: FakeArtifacts, tmp_path: Path, from_file: bool
) -> None:
    (tmp_path / "large.bin").write_bytes(LARGE)
    source = tmp_path / "large.bin" if from_file else LARGE
    artifact = await client.upload(source, name="other.bin")
    path = await client.download(artifact.artifact_id, tmp_path / "back.bin")
    assert artifacts.methods[0] == "CreateArtifact"
    assert artifact.name == "other.bin"
    assert path.read_bytes() == LARGE


async def test_upload_is_repeated_while_the_mesh_is_away(client: AsyncClient, artifacts: FakeArtifacts) -> None:
    artifacts.refuse = 2
    artifact = await client.upload(LARGE)
    assert artifacts.stored[artifact.artifact_id][1] == LARGE


async def test_broken_download_goes_on_where_it_was(
    client: AsyncClient, artifacts: FakeArtifacts, tmp_path: Path
) -> None:
    artifact = await client.upload(LARGE)
    artifacts.cut_after = [250_000, 0, 1_000_000]
    path = await client.download(artifact.artifact_id, tmp_path / "back.bin")
    assert path.read_bytes() == LARGE
    assert artifacts.methods[1:] == [
        "ReadArtifact@0",
        "ReadArtifact@250000",
        "ReadArtifact@250000",
        "ReadArtifact@1250000",
    ]


async def test_download_never_overwrites_and_leaves_nothing_half_done(
    client: AsyncClient, artifacts: FakeArtifacts, tmp_path: Path
) -> None:
    artifact = await client.upload(b"new")
    (tmp_path / "here.txt").write_text("old")
    with pytest.raises(FileExistsError):
        await client.download(artifact.artifact_id, tmp_path / "here.txt")
    assert (tmp_path / "here.txt").read_text() == "old"
    artifacts.stored[artifact.artifact_id][0].sha256 = "0" * 64
    with pytest.raises(Internal):
        await client.download(artifact.artifact_id, tmp_path / "there.txt")
    with pytest.raises(NotFound):
        await client.download(new_id(), tmp_path / "there.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["here.txt"]
