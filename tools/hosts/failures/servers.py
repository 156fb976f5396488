"""The processes of one case."""
import http.client
import os
import socket
import subprocess

from failures.steps import CHUNK, HEARTBEAT, ROUTER, TRANSFER, wait_for
from failures.wire import Hold, Proxy, in_namespace


class Node:
    def __init__(self, name, role, address, namespace, port):
        self.name, self.role, self.address, self.namespace = name, role, address, namespace
        self.port, self.bootstrap_port, self.proxy_port, self.dist_port = range(port, port + 4)
        self.hosts = [(address, namespace)]  # of each of its processes
        self.commands = []
        self.processes = []
        self.log = None

    def connect(self, seconds):
        return in_namespace(
            self.namespace, lambda: socket.create_connection((self.address, self.port), seconds))

    def get(self, path, seconds=2):
        """Status and body; 0 if it doesn't answer."""
        try:
            connection = http.client.HTTPConnection(self.address, self.port)
            connection.sock = self.connect(seconds)
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except (OSError, http.client.HTTPException):
            return 0, ""
        finally:
            connection.close()

    def spawn(self, index):
        namespace = self.hosts[index][1]
        prefix = ["ip", "netns", "exec", namespace] if namespace else []
        return subprocess.Popen(prefix + self.commands[index], stdout=self.log, stderr=self.log)

    def start(self):
        self.processes = [self.spawn(i) for i in range(len(self.commands))]
        return self.is_well()

    def is_well(self):
        return wait_for(lambda: self.get("/health")[0] == 200, 15)

    def alive(self):
        return all(each.poll() is None for each in self.processes)

    def kill(self):
        for each in self.processes:
            if each.poll() is None:
                each.kill()
            each.wait()

    def pages(self):
        """Of requests that hold or wait for some; None where it doesn't answer."""
        status, text = self.get("/metrics")
        if status != 200:
            return None
        total = 0
        for line in text.splitlines():
            name = line.split("{")[0]
            value = float(line.split()[-1]) if line.startswith("sglang:num_") else 0
            if name == "sglang:num_used_tokens":
                total += int(value) // 64
            elif name in ("sglang:num_running_reqs", "sglang:num_queue_reqs",
                          "sglang:num_prefill_bootstrap_queue_reqs",
                          "sglang:num_prefill_inflight_queue_reqs",
                          "sglang:num_decode_prealloc_queue_reqs",
                          "sglang:num_decode_transfer_queue_reqs"):
                total += int(value)
        return total


class Cluster:
    """The processes of one case, at ports of its own."""

    def __init__(self, case, index, work, causeway, model):
        self.case, self.work = case, work / f"{index:03}"
        self.work.mkdir()
        self.namespaces = f"cf{os.getpid()}-{index}" if case["network"] else None
        self.interfaces = f"c{os.getpid() % 100000}x{index}"
        self.hold = Hold(case["step"])
        self.nodes, self.proxies = {}, []
        pairs = case["pairs"]
        names = [f"prefill{i}" for i in range(pairs)] + [f"decode{i}" for i in range(pairs)]
        port = 20000 + (os.getpid() * 7 + index * 24) % 12000 // 24 * 24
        for i, name in enumerate(names + ["router"]):
            address = f"10.{78 + index // 250}.{index % 250}.{i + 1}" if self.namespaces else "127.0.0.1"
            self.nodes[name] = Node(name, name.rstrip("01"), address,
                                    f"{self.namespaces}-{i}" if self.namespaces else None,
                                    port + 4 * i)
            self.nodes[name].log = open(self.work / f"{name}.log", "ab")
        self.router = self.nodes["router"]
        self.servers = [each for each in self.nodes.values() if each.role != "router"]
        for each in self.servers:
            hosts = case["hosts"] if each.role == case["hosts_of"] else 1
            for host in range(1, hosts):
                second = f"{each.namespace}h{host}" if self.namespaces else None
                # .1 to .5 are the nodes'.
                address = f"{each.address}{host}" if self.namespaces else each.address
                each.hosts.append((address, second))
            for host in range(hosts):
                each.commands.append(self.serve(each, causeway, model, hosts, host))
        self.router.commands.append(self.route(causeway))

    def serve(self, node, causeway, model, hosts, host):
        command = [causeway, "serve", "--model-path", model, "--host", node.hosts[host][0], "--port",
                   node.port, "--enable-metrics", "--disaggregation-mode", node.role,
                   "--disaggregation-heartbeat-interval", HEARTBEAT,
                   "--disaggregation-bootstrap-timeout", TRANSFER,
                   "--disaggregation-waiting-timeout", TRANSFER,
                   "--disaggregation-transfer-backend", self.case["backend"],
                   "--write-timeout", 3, "--max-total-tokens", self.case["tokens"][node.role]]
        if node.role == "prefill":
            command += ["--chunked-prefill-size", CHUNK,
                        "--disaggregation-bootstrap-port", node.bootstrap_port]
        if hosts > 1:
            layout = ["--cp-size", hosts] if node.role == "prefill" else ["--tp", hosts]
            command += layout + ["--nnodes", hosts, "--node-rank", host, "--dist-timeout", 2,
                                 "--dist-init-addr", f"{node.address}:{node.dist_port}"]
        return [str(word) for word in command]

    def route(self, causeway):
        command = [causeway, "route", "--pd-disaggregation", "--host", self.router.address, "--port",
                   self.router.port, "--policy", "round_robin", "--connect-timeout-secs", 1,
                   "--request-timeout-secs", ROUTER, "--health-check-interval-secs", 1,
                   "--health-check-timeout-secs", 1, "--health-failure-threshold", 2,
                   "--health-success-threshold", 1, "--cb-timeout-duration-secs", 1]
        if not self.case["retries"]:
            command.append("--disable-retries")
        for each in self.servers:
            command += ["--" + each.role, f"http://{each.address}:{each.port}"]
            if each.role == "prefill":
                # In cases of refused connections nobody listens at the proxy's port.
                direct = self.hold.message is None and self.case["fault"] != "refused transfer"
                command.append(each.bootstrap_port if direct else each.proxy_port)
        return [str(word) for word in command]

    def make_network(self):
        bridge = f"{self.interfaces}b"
        ip("link", "add", bridge, "type", "bridge")
        ip("link", "set", bridge, "up")
        for i, (address, namespace) in enumerate(self.all_hosts()):
            ip("netns", "add", namespace)
            ip("link", "add", f"{self.interfaces}{i}", "type", "veth", "peer", "name", "eth0",
               "netns", namespace)
            ip("link", "set", f"{self.interfaces}{i}", "master", bridge, "up")
            ip("-n", namespace, "address", "add", f"{address}/24", "dev", "eth0")
            ip("-n", namespace, "link", "set", "lo", "up")
            ip("-n", namespace, "link", "set", "eth0", "up")

    def all_hosts(self):
        return [host for node in self.nodes.values() for host in node.hosts]

    def cut(self, node, index, state):
        """Of the network, one of the node's hosts."""
        place = self.all_hosts().index(node.hosts[index])
        ip("link", "set", f"{self.interfaces}{place}", state)

    def start(self):
        if self.namespaces:
            self.make_network()
        for each in self.servers:
            each.processes = [each.spawn(i) for i in range(len(each.commands))]
        for each in self.servers:
            if not each.is_well():
                raise RuntimeError(f"{each.name} does not start")
        self.proxies = [Proxy(self.hold, each) for each in self.servers
                        if each.role == "prefill" and self.hold.message]
        if not self.router.start():
            raise RuntimeError("the router does not start")

    def close(self):
        for each in self.proxies:
            each.close()
        for each in self.nodes.values():
            each.kill()
            each.log.close()
        if self.namespaces:
            for i, (_, namespace) in enumerate(self.all_hosts()):
                ip("link", "delete", f"{self.interfaces}{i}", check=False)
                ip("netns", "delete", namespace, check=False)
            ip("link", "delete", f"{self.interfaces}b", check=False)


def ip(*words, check=True):
    subprocess.run(["ip", *words], check=check, capture_output=True, text=True)
