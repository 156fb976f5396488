#!/usr/bin/env python3
"""Drives a running server with the official `openai` package through every supported feature.

Usage: openai_client_check.py URL [--api-key KEY]

The model may have random weights: nothing is expected of the text but that the same request gives
the same text, streamed or not, alone or among others. Exit code 0 if every check passed.
"""
import argparse
import concurrent.futures
import json
import re
import sys
import traceback

import openai

PROMPT = "Question: Natalia sold clips to 48 of her friends. How many?\nAnswer:"
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello!"}]
CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


def greedy(client, **fields):
    fields = {"model": client.served, "prompt": PROMPT, "max_tokens": 24, "temperature": 0} | fields
    return client.completions.create(**fields)


def chat(client, **fields):
    fields = {"model": client.served, "messages": MESSAGES, "max_tokens": 24,
              "temperature": 0} | fields
    return client.chat.completions.create(**fields)


def refused(kind, call, param=None):
    """`call` must raise `kind`, and its error must name `param`."""
    try:
        call()
    except kind as error:
        body = error.body
        assert body["message"] and body["type"], body
        assert param is None or body["param"] == param, body
        return body
    raise AssertionError(f"expected {kind.__name__}")


@check
def models(client):
    listed = client.models.list().data
    assert [model.id for model in listed] == [client.served]
    assert client.models.retrieve(client.served).object == "model"
    refused(openai.NotFoundError, lambda: client.models.retrieve("no-such-model"))


@check
def completion_fields(client):
    answer = greedy(client)
    assert answer.object == "text_completion" and answer.model == client.served
    choice = answer.choices[0]
    assert choice.finish_reason in ("stop", "length")
    usage = answer.usage
    assert usage.prompt_tokens > 0 and 0 < usage.completion_tokens <= 24
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    if choice.finish_reason == "length":
        assert usage.completion_tokens == 24
    assert len(greedy(client, max_tokens=openai.NOT_GIVEN).choices) == 1


@check
def completion_is_repeatable(client):
    assert greedy(client).choices[0].text == greedy(client).choices[0].text
    one = greedy(client, temperature=1.0, seed=7)
    two = greedy(client, temperature=1.0, seed=7)
    assert one.choices[0].text == two.choices[0].text
    assert one.id != two.id
    for fields in ({"top_p": 0.5}, {"extra_body": {"top_k": 5}}, {"extra_body": {"min_p": 0.1}}):
        first = greedy(client, temperature=1.0, seed=3, **fields)
        again = greedy(client, temperature=1.0, seed=3, **fields)
        assert first.choices[0].text == again.choices[0].text, fields
    top_1 = greedy(client, temperature=1.0, seed=3, extra_body={"top_k": 1})
    assert top_1.choices[0].text == greedy(client).choices[0].text


@check
def completion_stream_equals_whole(client):
    whole = greedy(client)
    text, finish, usage, ids = "", None, None, set()
    for event in greedy(client, stream=True, stream_options={"include_usage": True}):
        ids.add(event.id)
        if event.usage is not None:
            assert event.choices == []
            usage = event.usage
        for choice in event.choices:
            text += choice.text
            finish = choice.finish_reason or finish
    assert text == whole.choices[0].text
    assert finish == whole.choices[0].finish_reason
    assert usage == whole.usage and len(ids) == 1


@check
def completion_batches(client):
    answer = greedy(client, prompt=["one", "two"], n=2, temperature=1.0, seed=5)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    for index, prompt in enumerate(["one", "two"]):
        alone = greedy(client, prompt=prompt, temperature=1.0, seed=5)
        assert answer.choices[2 * index].text == alone.choices[0].text
    ids = greedy(client, prompt=[5, 6, 7])
    assert ids.usage.prompt_tokens == 3
    lists = greedy(client, prompt=[[5, 6, 7], [8, 9]])
    assert lists.usage.prompt_tokens == 5
    assert lists.choices[0].text == ids.choices[0].text


@check
def completion_echo(client):
    plain = greedy(client)
    assert greedy(client, echo=True).choices[0].text == PROMPT + plain.choices[0].text
    streamed = "".join(event.choices[0].text for event in greedy(client, echo=True, stream=True))
    assert streamed == PROMPT + plain.choices[0].text


@check
def completion_logprobs(client):
    choice = greedy(client, logprobs=3).choices[0]
    logprobs = choice.logprobs
    count = len(logprobs.tokens)
    assert count > 0
    assert len(logprobs.token_logprobs) == len(logprobs.text_offset) == count
    assert all(value <= 0 for value in logprobs.token_logprobs)
    assert all(len(top) == 3 for top in logprobs.top_logprobs)
    for token, value, top in zip(logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs):
        assert abs(top[token] - value) < 1e-9, "greedy takes the most likely token"
    assert logprobs.text_offset == sorted(logprobs.text_offset)
    streamed = []
    for event in greedy(client, logprobs=3, stream=True):
        if event.choices[0].logprobs:
            streamed += event.choices[0].logprobs.tokens
    assert streamed == logprobs.tokens


@check
def stop_strings(client):
    text = greedy(client).choices[0].text
    if len(text) < 6:
        return
    stop = text[3:6]
    expected = text[:text.index(stop)]
    answer = greedy(client, stop=["\0never", stop])
    assert answer.choices[0].text == expected, (answer.choices[0].text, expected)
    assert answer.choices[0].finish_reason == "stop"
    streamed = "".join(event.choices[0].text for event in greedy(client, stop=stop, stream=True))
    assert streamed == expected


@check
def token_limits(client):
    answer = greedy(client, max_tokens=5, extra_body={"ignore_eos": True})
    assert answer.usage.completion_tokens == 5 and answer.choices[0].finish_reason == "length"
    answer = greedy(client, max_tokens=9, extra_body={"min_tokens": 9})
    assert answer.usage.completion_tokens == 9
    chatted = chat(client, max_tokens=openai.NOT_GIVEN, max_completion_tokens=4,
                   extra_body={"ignore_eos": True})
    assert chatted.usage.completion_tokens == 4


@check
def chat_fields(client):
    answer = chat(client)
    assert answer.object == "chat.completion"
    message = answer.choices[0].message
    assert message.role == "assistant" and isinstance(message.content, str)
    assert message.content == chat(client).choices[0].message.content
    parts = [MESSAGES[0], {"role": "user", "content": [{"type": "text", "text": "Hel"},
                                                       {"type": "text", "text": "lo!"}]}]
    assert chat(client, messages=parts).choices[0].message.content == message.content
    # An earlier answer goes back as the package prints it.
    history = MESSAGES + [message.model_dump(), {"role": "user", "content": "Again."}]
    assert chat(client, messages=history).usage.prompt_tokens > answer.usage.prompt_tokens
    assert len(chat(client, n=2, temperature=1.0).choices) == 2


@check
def chat_stream_equals_whole(client):
    whole = chat(client)
    role, text, finish, usage = None, "", None, None
    for event in chat(client, stream=True, stream_options={"include_usage": True}):
        assert event.object == "chat.completion.chunk"
        usage = event.usage or usage
        for choice in event.choices:
            role = choice.delta.role or role
            text += choice.delta.content or ""
            finish = choice.finish_reason or finish
    assert role == "assistant"
    assert text == whole.choices[0].message.content
    assert finish == whole.choices[0].finish_reason
    assert usage == whole.usage


@check
def chat_logprobs(client):
    content = chat(client, logprobs=True, top_logprobs=2).choices[0].logprobs.content
    assert len(content) > 0
    for token in content:
        assert len(token.top_logprobs) == 2 and token.logprob <= 0
        assert token.top_logprobs[0].token == token.token
        assert bytes(token.bytes).decode("utf-8", "replace") == token.token


@check
def chat_thinking(client):
    kwargs = {"chat_template_kwargs": {"thinking": True}}
    answer = chat(client, extra_body=kwargs)
    message = answer.choices[0].message
    reasoning = message.reasoning_content  # random weights may never end it
    assert isinstance(reasoning, str)
    streamed = ""
    for event in chat(client, extra_body=kwargs, stream=True):
        streamed += getattr(event.choices[0].delta, "reasoning_content", None) or ""
    assert streamed == reasoning
    assert answer.usage.completion_tokens_details.reasoning_tokens > 0


@check
def chat_tools(client):
    # Random weights call nothing, but the tools are in the prompt.
    tool = {"type": "function", "function": {"name": "f", "description": "Does f.",
                                             "parameters": {"type": "object"}}}
    answer = chat(client, tools=[tool], tool_choice="auto", parallel_tool_calls=True)
    assert answer.choices[0].message.tool_calls is None
    assert answer.usage.prompt_tokens > chat(client).usage.prompt_tokens
    without = chat(client, tools=[tool], tool_choice="none")
    assert without.choices[0].message.content == chat(client).choices[0].message.content


@check
def forced_tools(client):
    # What random weights say is noise, and yet a call.
    kinds = {"type": "object", "properties": {"unit": {"enum": ["C", "F"]}}, "required": ["unit"]}
    tools = [{"type": "function", "function": {"name": name, "parameters": kinds}}
             for name in ("f", "g")]
    named = {"type": "function", "function": {"name": "g"}}
    for choice in ("required", named):
        answer = chat(client, tools=tools, tool_choice=choice, parallel_tool_calls=False,
                      max_tokens=600, temperature=1.0, seed=3).choices[0]
        assert answer.finish_reason == "tool_calls", answer
        call = answer.message.tool_calls[0].function
        assert call.name in (("f", "g") if choice == "required" else ("g",))
        assert json.loads(call.arguments)["unit"] in ("C", "F")


@check
def usage_tells_cached_tokens(client):
    long = PROMPT * 8
    first = greedy(client, prompt=long).usage
    again = greedy(client, prompt=long).usage
    assert again.prompt_tokens == first.prompt_tokens
    cached = again.prompt_tokens_details.cached_tokens
    assert 0 < cached < again.prompt_tokens
    events = list(greedy(client, stream=True, extra_body={
        "stream_options": {"continuous_usage_stats": True}}))
    counts = [event.usage.completion_tokens for event in events]
    assert counts == sorted(counts) and counts[-1] > 0


@check
def unknown_paths_and_methods(client):
    missing = refused(openai.NotFoundError, lambda: client.embeddings.create(model="tiny", input="a"))
    assert missing["type"] == "invalid_request_error"
    try:
        client.get("/completions", cast_to=object)
    except openai.APIStatusError as error:
        assert error.status_code == 405 and error.body["message"], error.body
    else:
        raise AssertionError("expected 405")


@check
def harmless_fields(client):
    answer = chat(client, user="u", metadata={"a": "b"}, store=False, presence_penalty=0,
                  frequency_penalty=0, logit_bias={}, n=1, response_format={"type": "text"})
    assert answer.choices[0].finish_reason in ("stop", "length")


@check
def biases_and_penalties(client):
    biased = greedy(client, max_tokens=3, logit_bias={"70": 100}).choices[0].text
    assert len(biased) == 3 and len(set(biased)) == 1, biased
    never = {str(id): -100 for id in range(70)}
    assert greedy(client, logit_bias=never).choices[0].text is not None
    for fields in ({"frequency_penalty": 2}, {"presence_penalty": -2},
                   {"extra_body": {"repetition_penalty": 1.5}}):
        first = greedy(client, **fields)
        assert first.choices[0].text == greedy(client, **fields).choices[0].text, fields
    mixed = greedy(client, max_tokens=8, logit_bias={"70": 100}, frequency_penalty=2,
                   extra_body={"repetition_penalty": 2}).choices[0].text
    assert len(mixed) == 8 or len(set(mixed)) > 1, mixed


@check
def constrained_answers(client):
    def content(**response_format):
        answer = chat(client, max_tokens=200, temperature=1.0, seed=3,
                      response_format=response_format)
        assert answer.choices[0].finish_reason == "stop", answer
        return answer.choices[0].message.content

    schema = {"type": "object", "properties": {"a": {"enum": ["yes"]}, "b": {"type": "boolean"}},
              "required": ["a", "b"], "additionalProperties": False}
    value = json.loads(content(type="json_schema", json_schema={"name": "x", "schema": schema}))
    assert value["a"] == "yes" and isinstance(value["b"], bool) and len(value) == 2
    some = chat(client, max_tokens=30, response_format={"type": "json_object"})
    assert some.choices[0].message.content.lstrip().startswith("{")
    text = greedy(client, temperature=1.0, seed=4, extra_body={"regex": "[ab]{3}c+d"},
                  max_tokens=100).choices[0].text
    assert re.fullmatch("[ab]{3}c+d", text), text


@check
def refusals(client):
    bad = openai.BadRequestError
    refused(bad, lambda: greedy(client, temperature=-1), "temperature")
    refused(bad, lambda: greedy(client, top_p=0), "top_p")
    refused(bad, lambda: greedy(client, max_tokens=-1), "max_tokens")
    refused(bad, lambda: greedy(client, stop=[""]), "stop")
    refused(bad, lambda: greedy(client, prompt=[]), "prompt")
    refused(bad, lambda: greedy(client, prompt=[-1]), "prompt")
    refused(bad, lambda: greedy(client, extra_body={"nonsense": 1}), "nonsense")
    refused(bad, lambda: greedy(client, presence_penalty=3), "presence_penalty")
    refused(bad, lambda: greedy(client, logit_bias={"1": 200}), "logit_bias")
    refused(bad, lambda: chat(client, messages=[]), "messages")
    refused(bad, lambda: chat(client, messages=[{"role": "user", "content": 1}]),
            "messages[0].content")
    tool = {"type": "function", "function": {"name": "f g"}}
    refused(bad, lambda: chat(client, tools=[tool]), "tools[0].function.name")
    refused(bad, lambda: chat(client, reasoning_effort="immense"), "reasoning_effort")
    refused(bad, lambda: chat(client, response_format={"type": "yaml"}),
            "response_format.type")
    missing = refused(openai.NotFoundError, lambda: greedy(client, model="other"), "model")
    assert missing["code"] == "model_not_found"
    limit = client.models.retrieve(client.served).max_model_len
    long = refused(bad, lambda: greedy(client, prompt=[5] * limit), "prompt")
    assert long["code"] == "context_length_exceeded" and str(limit) in long["message"]
    refused(bad, lambda: greedy(client, max_tokens=limit), "max_tokens")


@check
def an_abandoned_stream_leaves_the_server_well(client):
    for _ in range(5):
        stream = greedy(client, stream=True, max_tokens=200, extra_body={"ignore_eos": True})
        next(iter(stream))
        stream.close()
    assert greedy(client).usage.completion_tokens > 0


@check
def streams_at_once_do_not_mix(client):
    prompts = [f"{number} and" for number in range(8)]

    def streamed(prompt):
        return "".join(event.choices[0].text for event in greedy(client, prompt=prompt, stream=True))

    alone = [streamed(prompt) for prompt in prompts]
    with concurrent.futures.ThreadPoolExecutor(len(prompts)) as pool:
        assert list(pool.map(streamed, prompts)) == alone


@check
def api_key(client):
    if client.api_key == "none":
        return
    other = client.with_options(api_key="wrong")
    refused(openai.AuthenticationError, other.models.list)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url", help="http://127.0.0.1:30000")
    parser.add_argument("--api-key", default="none")
    options = parser.parse_args()
    client = openai.OpenAI(base_url=options.url + "/v1", api_key=options.api_key, timeout=120,
                           max_retries=0)
    client.served = client.models.list().data[0].id
    failed = 0
    for function in CHECKS:
        try:
            function(client)
            print("ok    ", function.__name__)
        except Exception:  # the next check still runs
            failed += 1
            print("FAILED", function.__name__)
            traceback.print_exc()
    print(f"{len(CHECKS) - failed} of {len(CHECKS)} checks passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
