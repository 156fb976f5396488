"""What stands between a prefill and a decode server, and stops one of their messages."""
import ctypes
import socket
import struct
import threading

from failures.steps import FROM_DECODE, STEPS, TYPES


def in_namespace(name, make_socket):
    """A socket that make_socket makes in a network namespace (None: in this one)."""
    if name is None:
        return make_socket()
    result = []

    def run():
        try:
            with open(f"/run/netns/{name}") as file:
                libc = ctypes.CDLL(None, use_errno=True)
                if libc.setns(file.fileno(), 0x40000000) != 0:  # CLONE_NEWNET, of this thread only
                    raise OSError(ctypes.get_errno(), "setns")
            result.append(make_socket())
        except OSError as error:
            result.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(result[0], OSError):
        raise result[0]
    return result[0]


class Hold:
    """Stops one message of one connection, until it is let go or thrown away."""

    def __init__(self, step):
        self.message, self.nth = STEPS.get(step) or (None, 0)
        self.seen = 0
        self.lock = threading.Lock()
        self.reached = threading.Event()
        self.ended = threading.Event()
        self.dropped = False
        self.proxy = None

    def matches(self, kind, from_decode):
        if self.message is None or kind != TYPES[self.message]:
            return False
        if from_decode != (self.message in FROM_DECODE):
            return False
        with self.lock:
            self.seen += 1
            return self.seen == self.nth + 1

    def end(self, drop):
        self.dropped = drop
        self.ended.set()


class Proxy:
    """Stands before a prefill server's bootstrap port and reads the frames both ways."""

    def __init__(self, hold, node):
        self.hold, self.node = hold, node
        self.listener = in_namespace(
            node.namespace, lambda: socket.create_server((node.address, node.proxy_port)))
        self.sockets = []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            try:
                server = in_namespace(self.node.namespace, lambda: socket.create_connection(
                    (self.node.address, self.node.bootstrap_port), 2))
            except OSError:
                client.close()
                continue
            for each in (client, server):
                each.settimeout(None)
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.sockets.append(each)
            for pair in ((client, server, True), (server, client, False)):
                threading.Thread(target=self.pump, args=pair, daemon=True).start()

    def pump(self, source, target, from_decode):
        held = None  # what waits behind the message that was stopped; a timer ends that
        lock = threading.Lock()

        def let_go():
            nonlocal held
            self.hold.ended.wait(60)
            with lock:
                if self.hold.dropped:
                    return
                try:
                    target.sendall(b"".join(held))
                except OSError:
                    pass
                held = None

        try:
            while True:
                header = self.read(source, 16)
                _, _, kind, length, _ = struct.unpack("<IHHII", header)
                frame = header + self.read(source, length)
                with lock:
                    if held is None and self.hold.matches(kind, from_decode):
                        held = [frame]
                        threading.Thread(target=let_go, daemon=True).start()
                        self.hold.proxy = self
                        self.hold.reached.set()
                    # Signs of life overtake, unless whoever gave them has just been stopped.
                    elif held is None or (kind in (TYPES["PING"], TYPES["PONG"])
                                          and not self.hold.dropped):
                        target.sendall(frame)
                    else:
                        held.append(frame)
        except OSError:
            pass
        for each in (source, target):
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    @staticmethod
    def read(source, length):
        out = bytearray()
        while len(out) < length:
            part = source.recv(length - len(out))
            if not part:
                raise OSError("closed")
            out += part
        return bytes(out)

    def close_connections(self):
        """Those on which something was thrown away can't be gone on with."""
        for each in self.sockets:
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self):
        # Or accept() would go on with it.
        try:
            self.listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.listener.close()
        self.close_connections()
