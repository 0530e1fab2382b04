# Tells everybody on the pod's network, for some seconds, that an address is here.
#
# Arguments: the address, the seconds.
import socket
import struct
import sys
import time

address, seconds = socket.inet_aton(sys.argv[1]), float(sys.argv[2])
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806))
wire.bind(("eth0", 0))
mac, everybody = wire.getsockname()[4], b"\xff" * 6
end = time.monotonic() + seconds
while time.monotonic() < end:
    for operation, target in ((1, b"\0" * 6), (2, everybody)):
        body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation) + mac + address + target + address
        wire.send(everybody + mac + b"\x08\x06" + body)
    time.sleep(0.02)
