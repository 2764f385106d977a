"""Connections to Modbus devices: pymodbus for the frames, and what a line needs of the transport.

Imports pymodbus; imported only when a Modbus output is opened.
"""

from __future__ import annotations

import logging
import select
import socket
import struct
from collections.abc import Callable
from time import monotonic
from time import sleep as pause
from typing import Any, Literal

import serial
from pymodbus.client import ModbusSerialClient, ModbusTcpClient
from pymodbus.exceptions import ModbusIOException
from pymodbus.pdu import ExceptionResponse, ModbusPDU

from edge_ad_runtime.errors import OutputError
from edge_ad_runtime.outputs.modbus import WRITE_COIL, WRITE_REGISTER, RtuLink, TcpLink

# Seconds without traffic until the peer is asked whether it is there, between two such questions, and how many.
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 2), (socket.TCP_KEEPCNT, 3))
# Between two frames the bus is silent for 3.5 characters of 11 bits, or 1.75 ms above 19200 baud (Modbus over Serial
# Line V1.02, 2.5.1.1).
_SILENCE_BITS, _SHORTEST_SILENCE_S = 38.5, 0.00175

Table = Literal["coil", "discrete", "register", "input"]
_READERS: dict[Table, str] = {
    "coil": "read_coils",
    "discrete": "read_discrete_inputs",
    "register": "read_holding_registers",
    "input": "read_input_registers",
}

# Modbus Application Protocol V1.1b3, 7.
_EXCEPTIONS = {
    1: "this function is not known to it",
    2: "it has no such coil or register",
    3: "it does not take this value",
    4: "it has failed",
    6: "it is busy",
    10: "the gateway has no path to it",
    11: "it does not answer the gateway",
}

# Its errors come here as exceptions; in the log they would repeat at every attempt to reconnect.
_pymodbus_log = logging.getLogger("pymodbus.logging")
if _pymodbus_log.level == logging.NOTSET:
    _pymodbus_log.setLevel(logging.CRITICAL)


class _Write(ModbusPDU):
    """A write of one 16-bit value, which is answered by its echo; pymodbus' own for coils know only on and off."""

    rtu_frame_size = 8

    def encode(self) -> bytes:
        return struct.pack(">HH", self.address, self.registers[0])

    def decode(self, data: bytes) -> None:
        self.address, value = struct.unpack(">HH", data[:4])
        self.registers = [value]


class _WriteCoil(_Write):
    function_code = WRITE_COIL


class _WriteRegister(_Write):
    function_code = WRITE_REGISTER


class _TcpClient(ModbusTcpClient):
    """One whose connection notices a dead peer, and that says why it cannot connect."""

    def connect(self) -> bool:
        if self.socket is not None:
            return True
        timeout = self.comm_params.timeout_connect
        opened = socket.create_connection((self.comm_params.host, self.comm_params.port), timeout)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE:
            opened.setsockopt(socket.IPPROTO_TCP, option, value)
        self.socket = opened
        return True

    def drop_if_ended(self) -> None:
        """Close a connection that the device has given up; many do when it was idle."""
        if self.socket is not None and select.select([self.socket], [], [], 0)[0]:
            # Nothing is awaited, so this is its end, or the answer to a question that was given up.
            self.close()  # type: ignore[no-untyped-call]


class _SerialClient(ModbusSerialClient):
    """One that waits by the monotonic clock and not by the wall clock, which may be set meanwhile, and that says why
    it cannot open its port."""

    def connect(self) -> bool:
        if self.socket is None:
            params = self.comm_params
            self.socket = serial.Serial(
                params.host,
                params.baudrate,
                bytesize=params.bytesize,
                parity=params.parity,
                stopbits=params.stopbits,
                timeout=params.timeout_connect,
                write_timeout=params.timeout_connect,
                exclusive=True,
            )
        return True

    def recv(self, size: int | None) -> bytes:
        """What has come, or at least one byte within the timeout; empty after it. The caller asks until a frame is
        whole."""
        if self.socket is None:
            raise OSError("the port is closed")
        received: bytes = self.socket.read(max(1, self.socket.in_waiting))
        return received


class Connection:
    """An opened connection."""

    def __init__(self, client: _TcpClient | _SerialClient, silence_s: float) -> None:
        self._client = client
        self._silence_s = silence_s
        self._free_at = 0.0
        for answer in (_WriteCoil, _WriteRegister):
            client.register(answer)
        client.connect()

    def read(self, unit: int, table: Table, address: int, count: int) -> list[int]:
        """The values of ``count`` coils or registers from ``address`` on.

        Raises:
            OutputError: the device refuses, answers something else, or does not answer.
            Exception: whatever the driver raises.
        """
        read = getattr(self._client, _READERS[table])
        answer = self._ask(lambda: read(address, count=count, device_id=unit))
        values = answer.bits[:count] if table in ("coil", "discrete") else answer.registers
        if len(values) != count:
            raise OutputError(f"the device answers something else ({answer})")
        return [int(value) for value in values]

    def write(self, unit: int, function: int, address: int, value: int) -> None:
        """Write ``value`` to a coil (function 5) or a register (6) and check the answer.

        Raises:
            OutputError: the device refuses, answers something else, or does not answer.
            Exception: whatever the driver raises.
        """
        kind = _WriteCoil if function == WRITE_COIL else _WriteRegister
        request = kind(dev_id=unit, address=address, registers=[value])
        answer = self._ask(lambda: self._client.execute(False, request))
        if not isinstance(answer, kind) or (answer.address, *answer.registers) != (address, value):
            raise OutputError(f"the device answers something else ({answer})")

    def _ask(self, send: Callable[[], Any]) -> Any:
        """The answer to a request, which is not a refusal."""
        if isinstance(self._client, _TcpClient):
            self._client.drop_if_ended()
        elif (wait := self._free_at - monotonic()) > 0:
            pause(wait)
        try:
            answer = send()
        except ModbusIOException as error:
            timeout = self._client.comm_params.timeout_connect * 1e3
            raise OutputError(f"the device does not answer as it should within {timeout:g} ms") from error
        finally:
            self._free_at = monotonic() + self._silence_s
        if isinstance(answer, ExceptionResponse):
            code = answer.exception_code
            raise OutputError(
                f"is refused by the device: {_EXCEPTIONS.get(code, 'unknown reason')} (exception {code})"
            )
        return answer

    def close(self) -> None:
        self._client.close()  # type: ignore[no-untyped-call]

    def abandon(self) -> None:
        try:
            if isinstance(self._client, _SerialClient) and self._client.socket is not None:
                # As SerialPort.abandon.
                self._client.socket.reset_output_buffer()
        finally:
            self._client.close()  # type: ignore[no-untyped-call]


def connect(link: TcpLink | RtuLink) -> Connection:
    """Open a connection.

    Raises:
        OSError: the device or the port is not there.
    """
    timeout = link.timeout_ms / 1e3
    if isinstance(link, TcpLink):
        return Connection(_TcpClient(link.host, port=link.port, timeout=timeout, retries=0), 0.0)
    client = _SerialClient(
        link.path,
        baudrate=link.baud,
        bytesize=8,
        parity=link.parity,
        stopbits=link.stop,
        timeout=timeout,
        retries=0,
    )
    silence = _SHORTEST_SILENCE_S if link.baud > 19200 else _SILENCE_BITS / link.baud
    return Connection(client, silence)
