"""The chat template, in Jinja: ChatML as in the published models, tools as in Qwen3, and TRL's generation markers."""

from __future__ import annotations

CONTENT = (
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% elif message['content'] %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
)

# The words are Qwen3's, because its language models were trained with them.
TOOLS = (
    "{{ '# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>' }}"
    "{% for tool in tools %}{{ '\n' + (tool | tojson) }}{% endfor %}"
    "{{ '\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    "<tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>\' }}'
)

CALLS = (
    "{% if message['tool_calls'] %}"
    "{% set said = message['content'] if message['content'] is string "
    "else (message['content'] or []) | map(attribute='text') | join %}"
    "{% for call in message['tool_calls'] %}"
    "{% set function = call['function'] or call %}"
    "{% set arguments = function['arguments'] %}"
    "{{ '\n' if said or not loop.first else '' }}"
    "{{ '<tool_call>\n{\"name\": \"' + function['name'] + '\", \"arguments\": ' }}"
    "{{ arguments if arguments is string else arguments | tojson }}"
    "{{ '}\n</tool_call>' }}"
    "{% endfor %}{% endif %}"
)

# No newline between `<|im_end|>` and the next `<|im_start|>`, but one after each image placeholder.
CHAT_TEMPLATE = (
    "{% if tools and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\n' }}" + TOOLS + "{{ '<|im_end|>' }}"
    "{% endif %}"
    "{% for message in messages %}"
    "{% if message['role'] == 'tool' %}"
    "{% if loop.first or messages[loop.index0 - 1]['role'] != 'tool' %}{{ '<|im_start|>user' }}{% endif %}"
    "{{ '\n<tool_response>\n' }}" + CONTENT + "{{ '\n</tool_response>' }}"
    "{% if loop.last or messages[loop.index0 + 1]['role'] != 'tool' %}{{ '<|im_end|>' }}{% endif %}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ '<|im_start|>assistant\n' }}"
    "{% generation %}" + CONTENT + CALLS + "{{ '<|im_end|>' }}{% endgeneration %}"
    "{% else %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    + CONTENT
    + "{% if tools and loop.first and message['role'] == 'system' %}{{ '\n\n' }}"
    + TOOLS
    + "{% endif %}"
    "{{ '<|im_end|>' }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
