"""What threads work out for the event loop, without keeping it.

`asyncio.wrap_future`, and with it `asyncio.to_thread`, leaves a cycle: the future of the thread,
its callback, and the future again. A result then stays in memory until the next full garbage
collection, which may be minutes away: megabytes for each request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, TypeVar

Result = TypeVar("Result")

_POOL = ThreadPoolExecutor(thread_name_prefix="service")


async def in_thread(function: Callable[..., Result], *arguments: Any) -> Result:
    """As `asyncio.to_thread`."""
    return await result_of(_POOL.submit(copy_context().run, function, *arguments))


async def result_of(future: Future[Result]) -> Result:
    """As awaiting `asyncio.wrap_future`: when cancelled, the future is cancelled too."""
    try:
        await end_of(future)
        return future.result()
    except asyncio.CancelledError:
        future.cancel()
        raise
    finally:
        del future  # an exception of it holds this frame


async def end_of(future: Future[Any]) -> None:
    """Wait until a future has a result, has failed or is cancelled."""
    loop = asyncio.get_running_loop()
    ended = loop.create_future()

    def wake() -> None:
        if not ended.done():
            ended.set_result(None)

    def call(_: Future[Any]) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(wake)

    future.add_done_callback(call)
    await ended
