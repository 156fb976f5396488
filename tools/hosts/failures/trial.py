"""One case: what breaks, and what must be so then."""
import os
import resource
import signal
import subprocess
import time

from failures.clients import Client, prompt_of
from failures.servers import Cluster
from failures.steps import (AT_ONCE, BACK, FREED, FROM_DECODE, LIMIT, LONG_ANSWER, SHORT_ANSWER,
                            wait_for)


class Trial:
    """Runs one case; what was wrong with it is in `wrongs`."""

    def __init__(self, case, index, work, causeway, model, answers):
        self.case, self.answers = case, answers
        self.cluster = Cluster(case, index, work, causeway, model)
        self.wrongs, self.notes = [], []
        self.clients = []
        self.seconds, self.leaked, self.back = None, 0, None
        if case["backend"] != "tcp" and self.cluster.hold.message == "RUN":
            self.cluster.hold.message = "RUN_IN_MEMORY"
        if case["hosts_of"] == "prefill" and self.cluster.hold.nth:
            self.cluster.hold.nth //= 3  # host 0 sends about half of them

    def wrong(self, text):
        self.wrongs.append(text)

    def run(self):
        fault = self.case["fault"]
        try:
            self.cluster.start()
            if fault in ("kill", "stop", "cut"):
                self.break_one()
            elif fault == "client leaves":
                self.leave()
            elif fault.startswith("refused"):
                self.refuse()
            elif "link" in fault:
                self.slow()
            elif "pages" in fault:
                self.few_pages()
            elif fault == "no memory":
                self.no_memory()
            elif fault == "random failures":
                self.random_failures()
        except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
            self.wrong(f"{type(error).__name__}: {error}")
        finally:
            self.cluster.close()
        return self

    # -- Pieces of cases

    def ask_both(self):
        tokens = LONG_ANSWER if self.case["step"] == "decoding" else SHORT_ANSWER
        self.clients = [Client(self.cluster.router, prompt_of(1), tokens, not self.case["whole"])]
        if self.case["pairs"] == 1:
            time.sleep(0.02)
            self.clients.append(Client(self.cluster.router, prompt_of(2), tokens, False))

    def await_step(self):
        if self.cluster.hold.message:
            if not self.cluster.hold.reached.wait(10):
                raise RuntimeError("the step was not reached")
        elif self.case["step"] == "decoding":
            if not wait_for(lambda: self.clients[0].events > 5, 10, 0.002):
                raise RuntimeError("nothing was decoded")
            # Of both: then the prefill servers have done their part.
            prefills = [each for each in self.cluster.servers if each.role == "prefill"]
            wait_for(lambda: all(each.pages() == 0 for each in prefills), 1)
        if not any(each.pages() for each in self.cluster.servers):
            raise RuntimeError("no server has the request at this step")

    def await_clients(self, since, limit=LIMIT):
        for each in self.clients:
            each.join(max(0.0, since + limit - time.monotonic()))
            if each.is_alive():
                self.wrong(f"a client waits longer than {limit} s")
            self.answers.check(each)
        self.seconds = max((each.ended for each in self.clients), default=since) - since

    def expect(self, *allowed, clients=None):
        for each in self.clients if clients is None else clients:
            if not any(each.outcome.startswith(a) for a in allowed):
                self.wrong(f"{'stream' if each.stream else 'whole'}: {each.outcome} ({each.detail})")

    def await_no_pages(self, nodes, seconds):
        """All of these have freed their pages in time."""
        left = {}

        def none_left():
            for each in nodes:
                left[each.name] = each.pages()
            return all(pages == 0 for pages in left.values())

        begin = time.monotonic()
        if not wait_for(none_left, seconds):
            self.leaked += sum(pages or 0 for pages in left.values())
            self.wrong(f"pages or requests are left after {seconds} s: {left}")
        return time.monotonic() - begin

    def await_service(self, what="used again"):
        """The router answers, and rightly: whatever was gone is back."""
        begin = time.monotonic()
        last = None
        for each in self.cluster.proxies:
            if self.cluster.hold.dropped:
                each.close_connections()

        def answered():
            nonlocal last
            last = Client(self.cluster.router, prompt_of(3), 8, False, seconds=BACK)
            last.join()
            self.answers.check(last)
            return last.outcome in ("ok", "wrong")

        if not wait_for(answered, BACK, 0.1) or last.outcome == "wrong":
            self.wrong(f"not {what} within {BACK} s: {last.outcome} ({last.detail})")
        self.back = time.monotonic() - begin

    def serve_alone(self, nodes):
        """Servers compute a prompt of their own: all that one of a pair does without the other."""
        for each in nodes:
            status, text = each.get("/health_generate", 5)
            if status != 200:
                self.wrong(f"{each.name} answers /health_generate with {status} {text[:200]}")

    def victim_of(self, who):
        """Of two, the one that has the request."""
        if self.case["pairs"] == 1:
            return self.cluster.nodes[who if who == "router" else who + "0"]
        if who == "prefill":
            return self.cluster.hold.proxy.node
        decodes = [each for each in self.cluster.servers if each.role == "decode"]
        return max(decodes, key=lambda each: each.pages() or 0)

    # -- Cases

    def break_one(self):
        cluster, fault = self.cluster, self.case["fault"]
        who, *host = self.case["who"].split(" host ")
        index = int(host[0]) if host else 0
        self.ask_both()
        self.await_step()
        victim = self.victim_of(who)
        target = victim.processes[index]
        sender = "decode" if cluster.hold.message in FROM_DECODE else "prefill"
        since = time.monotonic()
        if fault == "cut":
            cluster.cut(victim, index, "down")
        else:
            target.send_signal(signal.SIGKILL if fault == "kill" else signal.SIGSTOP)
        cluster.hold.end(drop=sender == who and index == 0)
        survivors = [each for each in cluster.servers if each is not victim]

        # The router may not answer for being the one that is gone.
        if fault == "stop" and who == "router":
            self.await_no_pages(survivors, FREED)
            target.send_signal(signal.SIGCONT)
        self.await_clients(since)
        ends = ["ok", "error"]
        if fault == "kill" and who == "router":
            ends.append("broken")
        if self.case["retries"]:
            ends = ["ok"]
        self.expect(*ends)
        self.await_no_pages(survivors, FREED)
        if not all(each.alive() for each in survivors):
            self.wrong("a server that nothing was done to has ended")
        self.serve_alone(survivors)

        if fault == "cut":
            if not host:  # nobody has told it either
                self.await_no_pages([each for each in cluster.servers if each is victim], FREED)
            cluster.cut(victim, index, "up")
        elif fault == "kill":
            # Of several hosts the others stay, and meet it again.
            target.wait()
            victim.processes[index] = victim.spawn(index)
            if not victim.is_well():
                self.wrong("it does not come back")
        elif who != "router":
            target.send_signal(signal.SIGCONT)
        self.await_service()
        self.await_no_pages(cluster.servers, FREED)
        if not all(each.alive() for each in cluster.nodes.values()):
            self.wrong("a process has ended")

    def leave(self):
        cluster, who = self.cluster, self.case["who"]
        step = self.case["step"]
        if who == "router":
            self.ask_both()
            leaving = self.clients
        else:
            # As a router would, with a room of our own; the client of one of the two goes.
            prefill, decode = (cluster.nodes[name] for name in ("prefill0", "decode0"))
            tokens = LONG_ANSWER if step == "decoding" else SHORT_ANSWER
            port = prefill.proxy_port if cluster.hold.message else prefill.bootstrap_port
            for i, stream in enumerate((True, False)):
                extra = {"bootstrap_host": prefill.address, "bootstrap_port": port,
                         "bootstrap_room": 1000 + i}
                pair = [Client(node, prompt_of(1 + i), tokens, stream, extra)
                        for node in (decode, prefill)]
                self.clients += pair
                time.sleep(0.02)
            leaving = [each for each in self.clients if each.node.role == who]
        self.await_step()
        staying = [each for each in self.clients if each not in leaving]
        since = time.monotonic()
        for each in leaving:
            each.leave()
        cluster.hold.end(drop=False)
        for each in leaving:
            each.join(1)
            each.outcome = "left"
        if who == "prefill" and step in ("decoding", "acknowledged"):
            # Its part was done: the answer goes on.
            self.await_clients(since)
            self.expect("ok", "error", clients=staying)
            self.await_no_pages(cluster.servers, FREED)
        else:
            self.seconds = self.await_no_pages(cluster.servers, AT_ONCE)
            for each in staying:
                each.join(AT_ONCE)
                if each.is_alive():
                    self.wrong(f"the other half waits longer than {AT_ONCE} s")
            self.expect("error", "ok", clients=staying)
        self.await_service("answering")

    def refuse(self):
        cluster, who = self.cluster, self.case["who"]
        victim = cluster.nodes[who if who == "router" else who + "0"]
        survivors = [each for each in cluster.servers if each is not victim]
        if self.case["fault"] == "refused":
            victim.kill()
        else:
            survivors = cluster.servers
        since = time.monotonic()
        self.ask_both()
        self.await_clients(since)
        self.expect("broken" if who == "router" else "error")
        self.await_no_pages(survivors, FREED)
        self.serve_alone(survivors)
        if self.case["fault"] == "refused":
            victim.start()
            self.await_service()

    def slow(self):
        prefill = self.cluster.nodes["prefill0"]
        dead = self.case["fault"].startswith("dead")
        rate = "20kbit" if dead else "10mbit"
        subprocess.run(["tc", "-n", prefill.namespace, "qdisc", "add", "dev", "eth0", "root", "tbf",
                        "rate", rate, "burst", "4kb", "latency", "1s"], check=True,
                       capture_output=True)
        since = time.monotonic()
        self.ask_both()
        self.await_clients(since, 3 * LIMIT)
        self.expect("error" if dead else "ok")
        self.await_no_pages(self.cluster.servers, FREED)
        subprocess.run(["tc", "-n", prefill.namespace, "qdisc", "del", "dev", "eth0", "root"],
                       check=True, capture_output=True)
        self.await_service()

    def few_pages(self):
        """Pages for one of the two prompts: the other waits. Or for none: it is told."""
        since = time.monotonic()
        self.ask_both()
        self.await_clients(since)
        self.expect("error" if "too" in self.case["fault"] else "ok")
        self.await_no_pages(self.cluster.servers, FREED)
        self.serve_alone(self.cluster.servers)

    def no_memory(self):
        """The server can't have more address space than it has."""
        victim = self.victim_of(self.case["who"])
        with open(f"/proc/{victim.processes[0].pid}/statm") as file:
            size = int(file.read().split()[0]) * resource.getpagesize()
        resource.prlimit(victim.processes[0].pid, resource.RLIMIT_AS,
                         (size, resource.RLIM_INFINITY))
        since = time.monotonic()
        self.ask_both()
        self.await_clients(since)
        self.expect("ok", "error", *(["broken"] if victim.role == "router" else []))
        survivors = [each for each in self.cluster.servers if each is not victim]
        self.await_no_pages(survivors, FREED)
        self.serve_alone(survivors)
        if victim.alive():
            self.notes.append("goes on")
            resource.prlimit(victim.processes[0].pid, resource.RLIMIT_AS,
                             (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        else:
            self.notes.append(f"ended with {victim.processes[0].returncode}")
            victim.start()
        self.await_service()
        self.await_no_pages(self.cluster.servers, FREED)

    def random_failures(self):
        prefill = self.cluster.nodes["prefill0"]
        prefill.kill()
        os.environ["CAUSEWAY_TEST_DISAGG_FAILURE_PROB"] = "0.02"
        prefill.start()
        del os.environ["CAUSEWAY_TEST_DISAGG_FAILURE_PROB"]
        since = time.monotonic()
        self.clients = [Client(self.cluster.router, prompt_of(10 + i), SHORT_ANSWER, i % 2 == 0)
                        for i in range(20)]
        self.await_clients(since)
        self.expect("ok", "error")
        self.await_no_pages(self.cluster.servers, FREED)
