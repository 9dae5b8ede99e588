"""Chat templates of families, cut down to what matters here; written for these tests."""

_TURNS = "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
_OPENS = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"

# Qwen3: earlier turns lose their thinking; enable_thinking=false writes an empty block where the reply begins.
QWEN3 = (
    "{% for message in messages %}{% set content = message.content %}"
    "{% if message.role == 'assistant' and '</think>' in content %}"
    "{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{% set empty = '<think>\n\n</think>\n\n' if message.role == 'assistant' and loop.last else '' %}"
    "<|im_start|>{{ message.role }}\n{{ empty + content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
# SmolLM3: today's date and the switch stand in a system message of its own.
SMOLLM3 = (
    "{% if enable_thinking is not defined %}{% set enable_thinking = true %}{% endif %}"
    "{% set mode = '/think' if enable_thinking else '/no_think' %}"
    "<|im_start|>system\nToday: {{ strftime_now('%d %B %Y') }}\nMode: {{ mode }}\n"
    "{% if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}<|im_end|>\n"
    "{% for message in messages if message.role != 'system' %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if not enable_thinking %}<think>\n\n</think>\n{% endif %}{% endif %}"
)
# Llama 3.2: today's date, where the caller knows it.
LLAMA32 = (
    "{% if strftime_now is defined %}{% set date_string = strftime_now('%d %b %Y') %}"
    "{% else %}{% set date_string = '26 Jul 2024' %}{% endif %}"
    "<|start_header_id|>system<|end_header_id|>\n\nToday Date: {{ date_string }}\n"
    "{% if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}<|eot_id|>"
    "{% for message in messages if message.role != 'system' %}"
    "<|start_header_id|>{{ message.role }}<|end_header_id|>\n\n{{ message.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
# Gemma 2: no system message; the model's role has another name.
GEMMA2 = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{% set role = 'model' if message.role == 'assistant' else message.role %}"
    "<start_of_turn>{{ role }}\n{{ message.content | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
# Mistral: the user's turn ends where the reply begins, whatever add_generation_prompt says.
MISTRAL = (
    "{% for message in messages %}{% if message.role == 'user' %}[INST] {{ message.content }}[/INST]"
    "{% else %} {{ message.content }}</s>{% endif %}{% endfor %}"
)
# Of models that also see: a message's content is a list of parts, and plain text renders nothing.
PARTS = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% for part in message.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endfor %}" + _OPENS
)
LAST_TURN_ALONE = "{% set messages = messages[-1:] %}" + _TURNS + _OPENS
NO_SYSTEM = _TURNS.replace("in messages %}", "in messages if message.role != 'system' %}") + _OPENS
NOTHING = "<|im_start|>user\nHello<|im_end|>\n" + _OPENS
NEVER_OPENS = _TURNS
# gpt-oss: a finished reply stands in a channel, which the model opens by itself.
GPT_OSS = (
    "{% for message in messages %}<|start|>{{ message.role }}"
    "{{ '<|channel|>final' if message.role == 'assistant' }}<|message|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
CHATML = _TURNS + _OPENS
AT_RANDOM = CHATML + "{{ range(10 ** 5) | random }}"
AN_OBJECT = "{{ messages | map('upper') }}" + CHATML
ENDS_THE_TURN = CHATML + "<|im_end|>"
