"""torch's scaled_dot_product_attention on the CPU, called as often as the parent says.

The first line of the standard input is a JSON object: the sizes of the problem, "threads", and "way".
Then come the numbers of q, k and v, little-endian f32, heads first. The answer is a line of JSON with
torch's version. From then on each line is a command: "call" is answered with the seconds of one call,
by the clock and of all cores; "result" with a line "ok" and the numbers of the last output. The end
of the input ends it.
"""

import json
import sys
import time

import torch
from torch.nn.functional import scaled_dot_product_attention


def main():
    given, told = sys.stdin.buffer, sys.stdout.buffer
    ask = json.loads(given.readline())
    heads, kv_heads, q_len, kv_len, dim = (ask[key] for key in ("heads", "kv_heads", "q_len", "kv_len", "dim"))
    torch.set_num_threads(ask["threads"])

    def tensor(heads, len):
        numbers = bytearray(given.read(4 * heads * len * dim))
        return torch.frombuffer(numbers, dtype=torch.float32).reshape(1, heads, len, dim)

    q, k, v = tensor(heads, q_len), tensor(kv_heads, kv_len), tensor(kv_heads, kv_len)
    group = heads // kv_heads
    options = {"is_causal": q_len > 1}
    if ask["way"] == "rows":
        # One query sees every key, so that the query heads of a KV head may be rows of one head.
        assert q_len == 1
        q = q.reshape(1, kv_heads, group, dim)
    elif ask["way"] == "repeated":
        k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))
    else:
        assert ask["way"] == "gqa"
        options["enable_gqa"] = True

    def tell(line):
        told.write(json.dumps(line).encode() + b"\n")
        told.flush()

    tell({"version": torch.__version__, "threads": torch.get_num_threads()})
    output = None
    for line in given:
        if line.strip() == b"call":
            with torch.inference_mode():
                wall, cpu = time.perf_counter(), time.process_time()
                output = scaled_dot_product_attention(q, k, v, **options)
                spent = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
            # Its threads look for more work for a while, on the cores of whoever comes next.
            time.sleep(0.02)
            tell(spent)
        else:
            told.write(b"ok\n" + output.numpy().tobytes())
            told.flush()


if __name__ == "__main__":
    main()
