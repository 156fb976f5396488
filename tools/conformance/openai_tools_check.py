#!/usr/bin/env python3
"""Drives a parrot_server with the official `openai` package: tools and reasoning.

Usage: openai_tools_check.py URL FORMAT     (FORMAT as in parrot_server: v3, v3.1 or v3.2)

The parrot says what the user says, so the checks write the model's answers. Exit code 0 if every
check passed.
"""
import json
import sys
import traceback

import openai

TOOLS = [
    {"type": "function", "function": {
        "name": "weather", "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"},
                                                        "days": {"type": "integer"}},
                       "required": ["city"]}}},
    {"type": "function", "function": {"name": "time"}},
]
ARGUMENTS = {"city": 'Paris "é"\n', "days": 3}
BAR, SPACE = "\uff5c", "\u2581"
CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


def mark(name):
    return f"<{BAR}{name.replace(' ', SPACE)}{BAR}>"


def calls(form):
    """The text by which a model calls weather(ARGUMENTS) and time()."""
    if form == "v3.2":
        dsml = f"{BAR}DSML{BAR}"

        def invoke(name, arguments):
            lines = [f'<{dsml}invoke name="{name}">']
            for key, value in arguments.items():
                string = isinstance(value, str)
                text = value if string else json.dumps(value)
                lines.append(f'<{dsml}parameter name="{key}" string="{str(string).lower()}">{text}'
                             f"</{dsml}parameter>")
            return "\n".join(lines + [f"</{dsml}invoke>"])

        return "\n".join([f"\n\n<{dsml}function_calls>", invoke("weather", ARGUMENTS),
                          invoke("time", {}), f"</{dsml}function_calls>"])
    text = mark("tool calls begin")
    for name, arguments in (("weather", ARGUMENTS), ("time", {})):
        body = json.dumps(arguments, ensure_ascii=False)
        text += mark("tool call begin")
        if form == "v3":
            text += f"function{mark('tool sep')}{name}\n```json\n{body}\n```"
        else:
            text += f"{name}{mark('tool sep')}{body}"
        text += mark("tool call end")
    return text + mark("tool calls end")


def chat(client, says, **fields):
    fields = {"model": "parrot", "messages": [{"role": "user", "content": says}]} | fields
    return client.chat.completions.create(**fields)


def joined(stream):
    """A stream's deltas as one message."""
    out = {"content": "", "reasoning": "", "calls": [], "finish": None}
    for event in stream:
        for choice in event.choices:
            out["content"] += choice.delta.content or ""
            out["reasoning"] += getattr(choice.delta, "reasoning_content", None) or ""
            for call in choice.delta.tool_calls or []:
                if call.id:
                    assert call.index == len(out["calls"]) and call.type == "function"
                    out["calls"].append([call.function.name, ""])
                out["calls"][call.index][1] += call.function.arguments
            out["finish"] = choice.finish_reason or out["finish"]
    return out


@check
def calls_are_returned(client, form):
    answer = chat(client, "Hm." + calls(form), tools=TOOLS).choices[0]
    assert answer.finish_reason == "tool_calls" and answer.message.content == "Hm."
    one, two = answer.message.tool_calls
    assert one.id != two.id and one.type == "function"
    assert one.function.name == "weather" and json.loads(one.function.arguments) == ARGUMENTS
    assert two.function.name == "time" and json.loads(two.function.arguments) == {}


@check
def calls_are_streamed(client, form):
    out = joined(chat(client, "Hm." + calls(form), tools=TOOLS, stream=True))
    assert out["content"] == "Hm." and out["finish"] == "tool_calls", out
    assert [name for name, _ in out["calls"]] == ["weather", "time"]
    assert [json.loads(text) for _, text in out["calls"]] == [ARGUMENTS, {}]


@check
def a_conversation_with_tools_goes_round(client, form):
    messages = [{"role": "user", "content": calls(form)}]
    message = chat(client, "", messages=messages, tools=TOOLS).choices[0].message
    messages.append(message)  # as the package returns it
    for call in reversed(message.tool_calls):  # in any order: the ids tell
        messages.append({"role": "tool", "tool_call_id": call.id,
                         "content": f"result of {call.function.name}"})
    answer = chat(client, "", messages=messages, tools=TOOLS).choices[0]
    assert answer.message.content == "result of time", "the results are in the order of the calls"
    assert answer.finish_reason == "stop" and not answer.message.tool_calls


@check
def tool_choice_is_kept(client, form):
    text = calls(form)
    none = chat(client, text, tools=TOOLS, tool_choice="none").choices[0]
    assert none.message.content == text and none.finish_reason == "stop"
    assert len(chat(client, text, tools=TOOLS, tool_choice="auto").choices[0].message.tool_calls) == 2
    single = chat(client, text, tools=TOOLS, parallel_tool_calls=False).choices[0]
    assert len(single.message.tool_calls) == 1 and single.finish_reason == "tool_calls"


@check
def malformed_calls_are_content(client, form):
    text = calls(form).replace("weather", "unknown")
    answer = chat(client, text, tools=TOOLS).choices[0]
    assert answer.message.content == text and not answer.message.tool_calls
    assert joined(chat(client, text, tools=TOOLS, stream=True))["content"] == text


@check
def reasoning_is_apart(client, form):
    if form == "v3":
        return
    fields = {"extra_body": {"chat_template_kwargs": {"thinking": True}}, "tools": TOOLS}
    says = "why?</think>so" + calls(form)
    answer = chat(client, says, **fields)
    message = answer.choices[0].message
    assert message.reasoning_content == "why?" and message.content == "so"
    assert len(message.tool_calls) == 2
    assert answer.usage.completion_tokens_details.reasoning_tokens == len("why?</think>")
    out = joined(chat(client, says, stream=True, **fields))
    assert out["reasoning"] == "why?" and out["content"] == "so" and len(out["calls"]) == 2
    whole = chat(client, "why?</think>so", reasoning_effort="high",
                 extra_body={"separate_reasoning": False}).choices[0].message
    assert whole.content == "why?</think>so"


@check
def stop_strings_and_choices(client, form):
    answer = chat(client, "one two three", stop=[" three"], n=2, logprobs=True, top_logprobs=1)
    assert [choice.message.content for choice in answer.choices] == ["one two"] * 2
    assert all(len(choice.logprobs.content) == len("one two") for choice in answer.choices)
    assert answer.usage.prompt_tokens_details.cached_tokens == 0


def main():
    url, form = sys.argv[1:]
    client = openai.OpenAI(base_url=url + "/v1", api_key="secret", timeout=60, max_retries=0)
    failed = 0
    for function in CHECKS:
        try:
            function(client, form)
        except Exception:  # the next check still runs
            failed += 1
            print("FAILED", form, function.__name__)
            traceback.print_exc()
    print(f"{form}: {len(CHECKS) - failed} of {len(CHECKS)} checks of tools and reasoning passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
