# Announces on the pod's network, for some seconds, that this pod has an address: by ARP or, for an IPv6 address, by neighbor
# advertisements with the override flag (RFC 4861). The thief's kernel, which has the address, answers requests for it.
#
# Arguments: the address and the number of seconds.
import socket
import struct
import sys
import time

address, seconds = sys.argv[1], float(sys.argv[2])
V6 = ":" in address
family, kind = (socket.AF_INET6, 0x86DD) if V6 else (socket.AF_INET, 0x0806)
claimed = socket.inet_pton(family, address)
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(kind))
wire.bind(("eth0", 0))
mac = wire.getsockname()[4]


def answers():
    """Gratuitous ARP, as a request and as a reply."""
    broadcast = b"\xff" * 6
    for operation, target in ((1, b"\0" * 6), (2, broadcast)):
        body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation) + mac + claimed + target + claimed
        yield broadcast + mac + b"\x08\x06" + body


def advertisement():
    """An unsolicited advertisement with the override flag, to all nodes."""
    all_nodes = socket.inet_pton(family, "ff02::1")
    body = struct.pack("!BBHI", 136, 0, 0, 0x2000_0000) + claimed + b"\x02\x01" + mac
    total = sum(struct.unpack("!34H", claimed + all_nodes + struct.pack("!HH", 58, len(body)) + body))
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    body = body[:2] + struct.pack("!H", ~total & 0xFFFF) + body[4:]
    header = struct.pack("!IHBB", 6 << 28, len(body), 58, 255) + claimed + all_nodes
    yield b"\x33\x33\0\0\0\x01" + mac + b"\x86\xdd" + header + body


frames = list(advertisement() if V6 else answers())
end = time.monotonic() + seconds
while time.monotonic() < end:
    for frame in frames:
        wire.send(frame)
    time.sleep(0.02)
