"""Modbus devices: pymodbus' server on TCP, and on a PTY with a wire that can be listened to and cut."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import struct
import threading
import time
import tty
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from pymodbus.exceptions import NoSuchIdException
from pymodbus.pdu import ExceptionResponse, ModbusPDU
from pymodbus.server import ModbusSerialServer, ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

UNITS = (1, 7)
SIZE = 20


class _FlashCoil(ModbusPDU):
    """Function 05 as Waveshare's boards have it, echoed; the server's own knows only on and off."""

    function_code = 5
    rtu_frame_size = 8

    def encode(self) -> bytes:
        return struct.pack(">HH", self.address, self.registers[0])

    def decode(self, data: bytes) -> None:
        self.address, value = struct.unpack(">HH", data[:4])
        self.registers = [value]

    async def datastore_update(self, context: Any, device_id: int) -> ModbusPDU:
        if device_id not in UNITS:
            raise NoSuchIdException
        if self.address < 0x0200:
            on = self.registers[0] == 0xFF00
            if code := await context.async_setValues(device_id, 5, self.address, [on]):
                return ExceptionResponse(5, code)
        return self


def _device(unit: int) -> SimDevice:
    coils = SimData(0, values=[False] * SIZE, datatype=DataType.BITS)
    registers = SimData(0, values=[0] * SIZE, datatype=DataType.REGISTERS)
    return SimDevice(unit, simdata=([coils], [coils], [registers], [registers]))


class ModbusPeer:
    """A server in a thread. ``told`` are the writes that came, as (unit, function, address, value)."""

    def __init__(self, make: Callable[[dict[str, Any]], Coroutine[Any, Any, Any]]) -> None:
        self.told: list[tuple[int, int, int, int]] = []
        self.connections = 0
        self._make = make
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: Any = None
        self._thread: threading.Thread | None = None
        self.plug()

    def plug(self) -> None:
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        assert ready.wait(20)
        assert self._server is not None, "the server did not start"

    def _run(self, ready: threading.Event) -> None:
        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            try:
                server = await self._make(
                    {"trace_pdu": self._trace, "trace_connect": self._connected, "custom_pdu": [_FlashCoil]}
                )
                await server.serve_forever(background=True)
                self._server = server
            finally:
                ready.set()
            await server.serving
            # Connections close a turn of the loop later.
            await asyncio.sleep(0.005)

        asyncio.run(serve())

    def _trace(self, sending: bool, pdu: ModbusPDU) -> ModbusPDU:
        if not sending and pdu.function_code in (5, 6):
            self.told.append((pdu.dev_id, pdu.function_code, pdu.address, int(pdu.registers[0])))
        return pdu

    def _connected(self, connected: bool) -> None:
        self.connections += connected

    def unplug(self) -> None:
        if self._loop is not None and self._thread is not None:
            asyncio.run_coroutine_threadsafe(self._shutdown(), self._loop).result(10)
            self._thread.join(10)
            assert not self._thread.is_alive()
        self._loop = self._server = self._thread = None

    close = unplug

    async def _shutdown(self) -> None:
        # The server forgets to close a connection that it is about to accept.
        await asyncio.sleep(0.01)
        await self._server.shutdown()

    def writes(self, count: int, seconds: float = 10.0) -> list[tuple[int, int, int, int]]:
        """The writes, once there are ``count``."""
        deadline = time.monotonic() + seconds
        while len(self.told) < count:
            assert time.monotonic() < deadline, f"{self.told}: waited for {count}"
            time.sleep(0.002)
        return list(self.told)


def tcp_peer() -> tuple[ModbusPeer, int]:
    """A server on a port of its own, which it keeps when it comes back."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]

    async def make(options: dict[str, Any]) -> ModbusTcpServer:
        return ModbusTcpServer([_device(u) for u in UNITS], address=("127.0.0.1", port), **options)

    return ModbusPeer(make), port


class Wire:
    """Two PTYs joined to one line. ``sent`` and ``answered`` is what went over it; ``cut`` lets nothing through;
    ``byte_delay_s`` passes before each byte of an answer."""

    def __init__(self, folder: Path) -> None:
        self.sent = self.answered = b""
        self.cut = False
        self.byte_delay_s = 0.0
        self._ends = [os.openpty(), os.openpty()]
        for _, slave in self._ends:
            tty.setraw(slave)
        self.port, self.server_port = (os.ttyname(slave) for _, slave in self._ends)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._pump, daemon=True)
        self._thread.start()

    def _pump(self) -> None:
        here, there = (master for master, _ in self._ends)
        while not self._end.is_set():
            for source in select.select([here, there], [], [], 0.01)[0]:
                data = os.read(source, 4096)
                if self.cut:
                    continue
                if source == here:
                    self.sent += data
                    os.write(there, data)
                    continue
                self.answered += data
                for i in range(len(data)):
                    time.sleep(self.byte_delay_s)
                    os.write(here, data[i : i + 1])

    def close(self) -> None:
        self._end.set()
        self._thread.join()
        for ends in self._ends:
            for end in ends:
                os.close(end)


def rtu_peer(wire: Wire) -> ModbusPeer:
    """A server at the other end of the wire; silent for units that are not there, as on a bus."""

    async def make(options: dict[str, Any]) -> ModbusSerialServer:
        return ModbusSerialServer(
            [_device(u) for u in UNITS],
            port=wire.server_port,
            baudrate=9600,
            ignore_missing_devices=True,
            **options,
        )

    return ModbusPeer(make)
