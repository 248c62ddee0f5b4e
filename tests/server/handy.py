"""A chat template of our own that tells the model of tools, as Qwen's and Hermes' do."""

from __future__ import annotations

TEMPLATE = (
    "{% if tools %}<|im_start|>system\nThere are:{% for tool in tools %}\n{{ tool | tojson }}{% endfor %}\n"
    'Call one by <tool_call>\n{"name": <its name>, "arguments": <JSON>}\n</tool_call><|im_end|>\n{% endif %}'
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    '{% for c in m.tool_calls or [] %}<tool_call>\n{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}'
    "\n</tool_call>{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
