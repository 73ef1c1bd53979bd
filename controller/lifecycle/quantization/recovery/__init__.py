"""The search that wins back what quantization cost: a ladder of measures, cheapest first.

layers (which nodes) -> twins (what each loses by itself) -> bias, equalize (what changes the graph)
                     -> judge (how near to fp32, how fast) -> ladder (the rungs) -> search
"""
