"""Clients, and what they must be answered."""
import http.client
import json
import os
import random
import socket
import sys
import threading
import time

from failures.servers import Node
from failures.steps import PROMPT_TOKENS


class Client(threading.Thread):
    """One request; its end is `outcome`, one of: ok, wrong, error ..., broken, silent, left."""

    def __init__(self, node, prompt, tokens, stream, extra=None, seconds=30):
        super().__init__(daemon=True)
        self.node, self.stream, self.seconds = node, stream, seconds
        self.body = {"input_ids": prompt, "stream": stream, **(extra or {}),
                     "sampling_params": {"max_new_tokens": tokens, "ignore_eos": True,
                                         "temperature": 0}}
        self.prompt = prompt
        self.outcome, self.detail, self.ids = "silent", "", []
        self.events = 0
        self.ended = 0.0
        self.socket = None
        self.start()

    def run(self):
        try:
            self.outcome, self.detail = self.ask()
        except TimeoutError:
            self.outcome = "silent"
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.outcome, self.detail = "broken", f"{type(error).__name__}: {error}"
        self.ended = time.monotonic()

    def ask(self):
        connection = http.client.HTTPConnection(self.node.address, self.node.port)
        connection.sock = self.socket = self.node.connect(self.seconds)
        connection.request("POST", "/generate", json.dumps(self.body),
                           {"Content-Type": "application/json"})
        answer = connection.getresponse()
        if answer.status != 200 or not self.stream:
            value = json.loads(answer.read())
            if answer.status != 200:
                return self.error(f"error {answer.status}", value)
            return self.end_of(value)
        value = {}
        for line in answer:
            if not line.startswith(b"data: "):
                continue
            text = line[6:].strip()
            if text == b"[DONE]":
                return self.end_of(value)
            value = json.loads(text)
            if "error" in value:
                return self.error("error event", value)
            self.events += 1
        return "broken", "the stream ends without [DONE]"

    @staticmethod
    def error(kind, value):
        error = value.get("error")
        message = error.get("message") if isinstance(error, dict) else error
        return (kind, message) if message else ("wrong", f"no message in {value}")

    def end_of(self, value):
        self.ids = value.get("output_ids", [])
        reason = (value.get("meta_info", {}).get("finish_reason") or {}).get("type")
        if reason != "length":
            return "wrong", f"finish_reason {reason}: {str(value)[:200]}"
        return "ok", ""

    def leave(self):
        self.outcome = "left"
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except (OSError, AttributeError):
            pass


class Answers:
    """What one server without any of this answers, bit for bit what the others must answer."""

    def __init__(self, causeway, model, work):
        self.lock = threading.Lock()
        self.known = {}
        node = Node("reference", "reference", "127.0.0.1", None, 20000 + os.getpid() % 12000)
        node.log = open(work / "reference.log", "ab")
        node.commands = [[causeway, "serve", "--model-path", model, "--port", str(node.port)]]
        if not node.start():
            sys.exit("the reference server does not start")
        self.node = node

    def of(self, prompt, tokens):
        key = (tuple(prompt), tokens)
        with self.lock:
            if key not in self.known:
                client = Client(self.node, prompt, tokens, False)
                client.join()
                self.known[key] = client.ids
            return self.known[key]

    def check(self, client):
        if client.outcome != "ok":
            return
        expected = self.of(client.prompt, client.body["sampling_params"]["max_new_tokens"])
        if client.ids != expected:
            client.outcome = "wrong"
            client.detail = f"found tokens {client.ids[:8]}..., expected {expected[:8]}..."


def prompt_of(seed, length=PROMPT_TOKENS):
    return [random.Random(seed).randrange(3, 2000)] + [(seed * 31 + 7 * i) % 1900 + 3
                                                        for i in range(length - 1)]
