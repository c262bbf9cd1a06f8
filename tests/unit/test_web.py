"""What Winnow's servers share."""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor

from al.web import listen


def test_a_response_does_not_wait_for_the_acknowledgement_of_its_first_packet():
    """asyncio sets TCP_NODELAY, but only on sockets that name their protocol."""

    async def accepted() -> int:
        found: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            found.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        with listen("127.0.0.1", 0) as listening:
            async with await asyncio.start_server(accept, sock=listening):
                _, writer = await asyncio.open_connection(*listening.getsockname()[:2])
                writer.close()
                return await asyncio.wait_for(found, 5)

    with ThreadPoolExecutor(1) as thread:  # the main thread may have a loop that a browser's tests left running
        assert thread.submit(asyncio.run, accepted()).result() != 0
