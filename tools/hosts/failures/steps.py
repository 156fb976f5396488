"""Times, sizes and steps of run_failures."""
import time

HEARTBEAT = 0.3  # seconds; three of them missed, and a peer is lost
TRANSFER = 3  # seconds: bootstrap and waiting time-out
ROUTER = 6  # seconds: for a worker's next word
LIMIT = ROUTER + 3  # seconds from a fault to the end of every client
FREED = TRANSFER + 2  # seconds from there to the last page
AT_ONCE = 1.0  # seconds from a client's end to the last page
BACK = 10  # seconds until what is there again gets requests again

PROMPT_TOKENS = 1500
CHUNK = 64
LAYERS = 3  # of tiny-v32
RUNS = LAYERS * ((PROMPT_TOKENS + CHUNK - 1) // CHUNK)  # one for each layer of each chunk
SHORT_ANSWER = 48
LONG_ANSWER = 3000  # so long that a fault finds it being decoded

# Numbers of messages (src/transfer/messages.h), and which of the two sides sends them.
TYPES = {"HELLO": 1, "OPEN": 3, "ACCEPTED": 4, "RUN": 6, "RUN_IN_MEMORY": 7, "DONE": 8, "ACK": 9,
         "RELEASED": 10, "PING": 12, "PONG": 13}
FROM_DECODE = {"HELLO", "OPEN", "ACK"}
# Where a request is when this message is about to arrive.
STEPS = {
    "bootstrap": ("HELLO", 0),
    "allocated": ("OPEN", 0),
    "first chunk": ("RUN", 0),
    "middle layer": ("RUN", RUNS // 2 + 1),
    "last page": ("RUN", RUNS - 1),
    "first token": ("DONE", 0),
    "acknowledged": ("RELEASED", 0),
    "decoding": None,
}


def wait_for(condition, seconds, pause=0.02):
    """The first true value of condition(), or its last value when time is over."""
    until = time.monotonic() + seconds
    while True:
        value = condition()
        if value or time.monotonic() > until:
            return value
        time.sleep(pause)
