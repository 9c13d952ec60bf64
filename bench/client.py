"""One keep-alive HTTP connection, thin, so that the client is not what is slow."""

import asyncio


class Client:
    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, api_key: str
    ) -> None:
        self.reader, self.writer = reader, writer
        self.head = (
            f" HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {api_key}\r\n"
            "Content-Type: application/json\r\nIdempotency-Key: "
        ).encode()

    @classmethod
    async def connect(cls, port: int, api_key: str) -> "Client":
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        return cls(reader, writer, api_key)

    async def post(self, path: str, body: bytes, key: str) -> int:
        """The status of the answer; its body is read and dropped."""
        self.writer.write(
            b"POST %s%s%s\r\nContent-Length: %d\r\n\r\n%s"
            % (path.encode(), self.head, key.encode(), len(body), body)
        )
        return await self._status()

    async def get(self, path: str) -> int:
        """The status of the answer; its body is read and dropped."""
        self.writer.write(b"GET %s%s-\r\n\r\n" % (path.encode(), self.head))
        return await self._status()

    async def _status(self) -> int:
        head = await self.reader.readuntil(b"\r\n\r\n")
        at = head.lower().index(b"content-length:") + 15
        await self.reader.readexactly(int(head[at : head.index(b"\r", at)]))
        return int(head[9:12])

    def close(self) -> None:
        self.writer.close()
