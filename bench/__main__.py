"""Every measurement of the served bundle, one after another: python -m bench (make bench)."""

from bench import real_time, rescoring

if __name__ == "__main__":
    real_time.main([])
    rescoring.main([])
