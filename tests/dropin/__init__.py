"""The drop-in law, point by point: what programs rely on in ThreadPoolExecutor.

Every test here that does not say otherwise is run on ThreadPoolExecutor first, which proves that
it states the stdlib's behaviour, and then on everything of ours that takes its place.
"""
