"""A program that renders chat templates, which are programs of strangers: in Jinja's sandbox, as transformers does, and
with little time and memory. JSON comes in and goes out. It imports nothing of the project, so that it starts fast.
"""

import json
import sys
from contextlib import suppress

MAX_SECONDS, MAX_BYTES = 2, 2**28

if __name__ == "__main__":
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    with suppress(ImportError):  # Windows has the caller's timeout only
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (MAX_SECONDS, MAX_SECONDS))
        resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, MAX_BYTES))
    source, conversations, variables = json.load(sys.stdin)
    options = {"trim_blocks": True, "lstrip_blocks": True, "extensions": ["jinja2.ext.loopcontrols"]}
    template = ImmutableSandboxedEnvironment(**options).from_string(source)
    print(json.dumps([template.render(messages=messages, **variables) for messages in conversations]))
