"""What steering costs on this machine, with this model, beside llama.cpp alone; and how capture and fit grow with the data."""

from fs_local.benchmark.figures import Measurement, Report
from fs_local.benchmark.run import bench
from fs_local.benchmark.scaling import Scaling, measure_scaling

__all__ = ["Measurement", "Report", "Scaling", "bench", "measure_scaling"]
