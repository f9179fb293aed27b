"""Golden files of the text module: chats as prompts, and token ids.

    python scripts/goldens/text.py SmolLM2-135M-Instruct.Q4_1.gguf

writes data/goldens/chat_templates.json (by transformers' apply_chat_template machinery) and
data/goldens/tokenizer_ids.json (by Hugging Face's tokenizers, on the vocabulary of the GGUF file).
Nothing is random. Where llama-cpp-python is installed, each list of ids is compared with
llama.cpp's first; without it the script says so and goes on.
"""

import datetime
import hashlib
import json
import pathlib
import sys

import gguf
import tokenizers
import transformers
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from transformers.utils import chat_template_utils

GOLDENS = pathlib.Path(__file__).parents[2] / "data" / "goldens"
# The moment that `strftime_now` shows: 2024-02-29 13:04:05 UTC, a leap day.
NOW = 1_709_211_845

# In the style of Llama 3.1's template: a date, tools, a system message taken off the front.
LLAMA_3_1 = """{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}

{#- The system message leads, whether or not the chat has one. #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Cutting Knowledge Date: December 2023\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{%- if tools is not none %}
    {{- "You have access to the following functions. " }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
        {{- '{"name": "' + tool_call.name + '", ' }}
        {{- '"parameters": ' }}
        {{- tool_call.arguments | tojson }}
        {{- "}" }}
        {{- "<|eot_id|>" }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable and message.content is not string %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

# In the style of Qwen 2.5's: tools as JSON lines, tool results gathered in one user turn.
QWEN_2_5 = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0]['role'] == 'system' %}
        {{- messages[0]['content'] }}
    {%- else %}
        {{- 'You are a helpful assistant.' }}
    {%- endif %}
    {{- "\\n\\n# Tools\\n\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content %}
            {{- '\\n' + message.content }}
        {%- endif %}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function is defined %}
                {%- set tool_call = tool_call.function %}
            {%- endif %}
            {{- '\\n<tool_call>\\n{"name": "' }}
            {{- tool_call.name }}
            {{- '", "arguments": ' }}
            {{- tool_call.arguments | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' }}
        {{- message.content }}
        {{- '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content']"
    " + '<|im_end|>' + '\\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

# TinyLlama's and Zephyr's: newlines after tags, which `trim_blocks` must take.
ZEPHYR = """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\\n'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""

# Mistral's way of refusing, and Llama 2's of wrapping.
ALTERNATING = """{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'].strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"""

# What templates in the wild use of Python and of Jinja, one line each.
FEATURES = """{%- macro shout(text, mark='!') -%}{{ text | upper }}{{ mark }}{%- endmacro -%}
{%- set ns = namespace(seen=0, last=none) -%}
{% for message in messages %}
    {% if message.role == 'system' %}
        {% continue %}
    {% endif %}
    {% set ns.seen = ns.seen + 1 %}
    {% set ns.last = message %}
{{ loop.index }}/{{ loop.length }} {{ message['role'].title() }}: {{ message.content.split('</think>')[-1].lstrip('\\n') }}
{% if ns.seen >= 3 %}{% break %}{% endif %}
{% endfor %}
{{ ns.seen }} {{ ns.last is none }} {{ none }} {{ true }} {{ [1, 'a', none, 2.5, {'k': false}] }}
{{ shout('hey') }} {{ shout('hey', mark='?') }}
{{ messages | map(attribute='role') | join(',') }} {{ messages | selectattr('role', 'equalto', 'user') | list | length }}
{{ {'b': 1, 'a': [1.0, 1e-7, 'é<&>\\'"']} | tojson }}
{{ {'b': 1, 'a': {}} | tojson(indent=2, sort_keys=true) }}
{{ [1, 2] | tojson(separators=(',', ':')) }} {{ 'é' | tojson(ensure_ascii=true) }}
{{ 'a-b-c'.replace('-', '+') }} {{ ' x '.strip() }}| {{ 'abc'.startswith('ab') }} {{ 'abc'.endswith('x') }} {{ 'a b'.split() }} {{ 'abc'[1:] }} {{ 'abc'[::-1] }} {{ 'b' in 'abc' }}
{% for key, value in {'x': 1, 'y': 2}.items() %}{{ key }}={{ value }};{% endfor %} {{ {'x': 1}.get('z', 'none') }} {{ {'x': 1} | length }}
{{ messages[-1].content }} {{ messages[0].missing is defined }} [{{ messages[0].missing }}] {{ missing | default('d') }} {{ 7 // 2 }} {{ 7 / 2 }} {{ 7 % 3 }} {{ 2 ** 5 }} {{ '1' ~ 2 }}
{%- for m in messages | reverse if m.role == 'user' %} {{ m.content | length }}{% else %} nobody{% endfor %}
    {%+ if true %}kept{% endif %}

    {% if messages %}indent{% endif %}
{% filter upper %}filtered{% endfilter %} {{ '%s-%d' | format('a', 3) }} {{ [3, 1, 2] | sort | first }} {{ (1, 2) }} {{ 'x' if false }}|
{{ strftime_now('%d %B %Y, %H:%M') }} {{ "line\\nbreak" | indent(2) }}
"""

GENERATION = (
    "{% for message in messages %}{% if message.role == 'assistant' %}{% generation %}"
    "{{ message.content }}{{ eos_token }}{% endgeneration %}{% else %}"
    "{{ message.role }}: {{ message.content }}\n{% endif %}{% endfor %}"
)

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Météo d'une ville <now> & later",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "number", "default": 1.0}},
            "required": ["city"],
        },
    },
}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Köln", "days": 2}}}
    ],
}


def message(role, content):
    return {"role": role, "content": content}


CHATS = [
    [message("user", "Hi")],
    [message("system", "Be brief.\n"), message("user", "  2+2? ")],
    [message("user", "a"), message("assistant", "b"), message("user", "c")],
    [
        message("system", "Tu es poli — 你好 🙂"),
        message("user", "<|im_end|> {{ 7*7 }} {% if %}\r\n\ttab"),
        message("assistant", "<think>\nhm\n</think>\n\nYes."),
        message("user", ""),
    ],
    [message("user", "u1"), message("user", "u2")],
]


def chat_goldens(smollm2):
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    templates = {
        "smollm2": {"source": smollm2, "bos_token": "<|im_start|>", "eos_token": "<|im_end|>"},
        "llama-3.1": {"source": LLAMA_3_1, "bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
        "qwen2.5": {"source": QWEN_2_5, "bos_token": None, "eos_token": "<|im_end|>"},
        "chatml": {"source": CHATML, "bos_token": None, "eos_token": None},
        "zephyr": {"source": ZEPHYR, **tokens},
        "alternating": {"source": ALTERNATING, **tokens},
        "features": {"source": FEATURES, **tokens},
        "generation": {"source": GENERATION, **tokens},
    }
    cases = []

    def case(name, messages, add_generation_prompt, tools=None, variables=None):
        entry = {
            "template": name,
            "messages": messages,
            "add_generation_prompt": add_generation_prompt,
            "tools": tools,
            "variables": variables or {},
        }
        known = {k: v for k, v in templates[name].items() if k != "source" and v is not None}
        try:
            entry["expected"] = chat_template_utils.render_jinja_template(
                conversations=[messages],
                tools=tools,
                chat_template=templates[name]["source"],
                add_generation_prompt=add_generation_prompt,
                **known,
                **entry["variables"],
            )[0][0]
        except Exception as error:  # whatever the template raises is the golden
            entry["error"] = str(error)
        cases.append(entry)

    for name in templates:
        for chat in CHATS:
            for add_generation_prompt in (False, True):
                case(name, chat, add_generation_prompt)
    with_call = [*CHATS[1], CALL, message("tool", '{"t": 21}'), message("tool", "sunny")]
    for name in ("llama-3.1", "qwen2.5"):
        case(name, with_call, True, tools=[TOOL, TOOL])
    case("llama-3.1", CHATS[0], True, variables={"date_string": "1 Jan 2000"})
    twice = {**CALL, "tool_calls": CALL["tool_calls"] * 2}
    case("llama-3.1", [CHATS[0][0], twice], False)
    return {"templates": templates, "cases": cases}


class FixedClock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.datetime.fromtimestamp(NOW, datetime.timezone.utc).replace(tzinfo=None)


def corpus():
    """Strings of every kind that a tokenizer can get wrong."""
    plain = [
        "", " ", "a", "Hello, world!", "Hello world", " Hello", "The quick brown fox jumps over the lazy dog.",
        "I'm, you're, we'll, they've, he'd, it's, don't", "I'M YOU'RE WE'LL", "it’s “quoted” – dashes — …",
        "naïve café résumé Ångström", "ALLCAPS mixedCase snake_case kebab-case", "word" * 50,
        "http://example.com/a?b=c&d=%20#frag", "user@example.org", "C:\\path\\to\\file.txt", "/usr/local/bin",
    ]
    numbers = [
        "0", "7", "42", "123", "1234567890", "3.14159", "1,000,000", "-17", "+1e-10", "0x1F", "2024-02-29",
        "12:34:56", "10%", "$9.99", "x1y22z333", "١٢٣", "½ ² ₃ Ⅷ", "一二三 123", "1st 2nd 3rd", "1 2 3", "  12  34",
        "９９", "𝟙𝟚", "v1.2.3-rc4", "192.168.0.1",
    ]
    code = [
        "def f(x):\n    return x + 1\n", "for (int i = 0; i < n; ++i) { a[i] += b[i]; }", "fn main() -> Result<()> {}",
        "\tif x:\n\t\tpass\n", "<div class=\"a\">b</div>", "SELECT * FROM t WHERE a = 'b';", "x = {'a': [1, 2, {}]}",
        "#!/bin/sh\nset -e\n", "/* c */ // d", "a&&b||!c", "λx.x", "i++ + ++i", "a=>b", "::<>", "#[derive(Debug)]",
        "```python\nprint(\"hi\")\n```", "{\"k\": null, \"n\": 1.5e3}", "\\n is not \n", "$$\\frac{1}{2}$$",
        "let s = r#\"raw\"#;", "if __name__ == \"__main__\":",
    ]
    space = [
        "  ", "   ", "    ", "\t", "\n", "\n\n", "\n\n\n", "\r\n", "\r", "\r\n\r\n", " \n", "\n ", "  \n  \n", "a  b", "a   b",
        "a \n b", "a\tb", "a\t\tb", "trailing ", "trailing  ", "  leading", "\tleading", "a\r\nb\r\n", " \t \t ", "a" + " " * 40 + "b",
        "\u00a0", "a\u00a0b", "\u2003em\u2003space", "\u3000", "a\u200bb", "\u0085", "\u2028line\u2029par", "\x0b\x0c", "\ufeffbom",
        "    \n    code\n\n\n  end", " " * 100, "\n" * 30, "x" + "\n\t" * 10,
    ]
    scripts = [
        "你好,世界", "日本語のテキスト、カタカナ。", "한국어 문장입니다", "Привет, мир!", "Γειά σου Κόσμε", "שלום עולם", "مرحبا بالعالم",
        "नमस्ते दुनिया", "สวัสดีชาวโลก", "Xin chào thế giới", "İstanbul ığ", "ßẞ ﬁ ﬂ", "Ǆ ǅ ǆ", "𐍈𐌰 𝔘𝔫𝔦𝔠𝔬𝔡𝔢", "ᚠᛇᚻ", "መልካም", "ကမ္ဘာ",
    ]
    marks = [
        "e\u0301", "é", "a\u0308\u0323", "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A", "n\u0303o", "\u0301alone", "क्षि", "\u202eright to left\u202c", "soft\u00adhyphen",
    ]
    emoji = [
        "🙂", "😀😀😀", "👨‍👩‍👧‍👦", "👍🏽", "🇩🇪🇫🇷", "❤️", "☺", "a🙂b", " 🙂 ", "🏳️‍🌈 flag", "1️⃣", "🧑🏿‍🚀x", "✈️→🗺️",
    ]
    control = [
        "\x00", "a\x00b", "\x01\x02\x03", "\x1b[31mred\x1b[0m", "\x7f", "\x80\x9f", "\ufffd", "\ufffe\uffff", "\U0010ffff", "\ue000",
        "Ġ", "Ċ", "ĠhelloĊ", "▁x", "<0x0A>", "â€™ Ã©",
    ]
    special = [
        "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", " <|im_end|> ",
        "a<|im_end|>b", "<|im_end|><|im_end|>", "<|im_end", "<|IM_END|>", "<repo_name>x<file_sep>y", "<|im_start|>system\n1 2<|im_end|>",
        "<<|im_start|>>", "<empty_output>", "\n<|im_end|>\n", "<|im_start|> user",
    ]
    words = "It costs 42 € — d'accord? \tfoo_bar(x1)\n\n"
    return plain + numbers + code + space + scripts + marks + emoji + control + special + [words * 200, "ab" * 3000]


def tokenizer_of(fields):
    tokens, kinds = fields["tokens"], fields["token_type"]
    merges = [tuple(merge.split(" ")) for merge in fields["merges"]]
    bpe = models.BPE({token: i for i, token in enumerate(tokens)}, merges)
    tokenizer = tokenizers.Tokenizer(bpe)
    # SmolLM's tokenizer.json; transformers' GPT2Tokenizer would drop the digits.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, kinds) if kind == gguf.TokenType.CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in control])
    return tokenizer


def compare_with_llama_cpp(path, texts, ids):
    try:
        import llama_cpp
    except ImportError:
        print("llama-cpp-python is not installed: ids not compared with llama.cpp", file=sys.stderr)
        return
    llama = llama_cpp.Llama(path, vocab_only=True, verbose=False)
    differing = []
    for text, expected in zip(texts, ids):
        if llama.tokenize(text.encode(), add_bos=False, special=True) != expected:
            differing.append(text)
    print(f"llama.cpp: {len(texts) - len(differing)} of {len(texts)} equal; other: {differing}", file=sys.stderr)


def write(name, content):
    text = json.dumps(content, ensure_ascii=False, indent=1)
    (GOLDENS / name).write_text(text + "\n", encoding="utf-8", newline="\n")


def main():
    path = sys.argv[1]
    reader = gguf.GGUFReader(path)
    names = ("tokens", "token_type", "merges")
    fields = {name: reader.fields[f"tokenizer.ggml.{name}"].contents() for name in names}
    template = reader.fields["tokenizer.chat_template"].contents()
    made_by = {
        "made_by": "scripts/goldens/text.py",
        "model": pathlib.Path(path).name,
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,
    }

    chat_template_utils.datetime = FixedClock
    write("chat_templates.json", {**made_by, "now": NOW, **chat_goldens(template)})

    tokenizer = tokenizer_of(fields)
    texts = corpus()
    ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    for text, encoded in zip(texts, ids):
        assert tokenizer.decode(encoded, skip_special_tokens=False) == text, text
    compare_with_llama_cpp(path, texts, ids)
    vocabulary = hashlib.sha256("\n".join(fields["tokens"]).encode()).hexdigest()
    cases = [
        {
            "text": text,
            "ids": encoded,
            "decoded": tokenizer.decode(encoded, skip_special_tokens=True),
        }
        for text, encoded in zip(texts, ids)
    ]
    with (GOLDENS / "tokenizer_ids.json").open("w", encoding="utf-8", newline="\n") as file:
        # One case a line.
        lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
        head = json.dumps({**made_by, "vocabulary_sha256": vocabulary})[:-1]
        file.write(f'{head}, "cases": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
