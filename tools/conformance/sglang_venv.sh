# For scripts that run the clients of the package `sglang`, unmodified; they source it after setting
# `root`. Sets `venv`, which is made on the first run. The package is installed without its
# dependencies, which want GPUs; its clients need only those named here.

venv=$root/.venv/sglang
if ! "$venv/bin/python" -c 'import sglang.bench_serving' 2>/dev/null; then
  python3 -m venv "$venv"
  "$venv/bin/pip" install -q --no-deps sglang==0.4.6.post5
  "$venv/bin/pip" install -q aiohttp ipython 'numpy<2.3' pillow pydantic requests tqdm 'transformers<5'
fi

# gsm8k_questions FILE [COUNT]: the demo's questions as JSON lines, from the start again until there
# are COUNT.
gsm8k_questions() {
  "$venv/bin/python" - "$root/data/demo/gsm8k.txt" "$@" <<'PYTHON'
import itertools, json, pathlib, sys

text, out, *count = sys.argv[1:]
questions = []
for block in pathlib.Path(text).read_text().strip().split("\n\nQuestion: "):
    question, _, answer = block.removeprefix("Question: ").partition("\nAnswer: ")
    if "####" in answer:
        questions.append(json.dumps({"question": question, "answer": answer.strip()}) + "\n")
count = int(count[0]) if count else len(questions)
pathlib.Path(out).write_text("".join(itertools.islice(itertools.cycle(questions), count)))
PYTHON
}
