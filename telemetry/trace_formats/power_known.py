"""The formats of recorded power, in the order in which they are tried."""

from telemetry.trace_file import Format
from telemetry.trace_formats import (
    dmon,
    mlperf_power,
    nvidia_smi_csv,
    nvidia_smi_text,
    nvidia_smi_xml,
    power_csv,
    power_parquet,
    prometheus_json,
    prometheus_text,
)

POWER_FORMATS: tuple[Format, ...] = (
    Format("power-parquet", "power", power_parquet.sniff, power_parquet.read),
    Format("mlperf-analyser", "power", mlperf_power.sniff_analyser, mlperf_power.read_analyser),
    Format("mlperf-node", "power", mlperf_power.sniff_node, mlperf_power.read_node),
    Format("nvidia-smi-xml", "power", nvidia_smi_xml.sniff, nvidia_smi_xml.read),
    Format("nvidia-smi-csv", "power", nvidia_smi_csv.sniff, nvidia_smi_csv.read),
    Format("dcgmi-dmon", "power", dmon.sniff_dcgmi, dmon.read_dcgmi),
    Format("nvidia-smi-dmon", "power", dmon.sniff_nvidia_smi, dmon.read_nvidia_smi),
    Format("nvidia-smi-text", "power", nvidia_smi_text.sniff, nvidia_smi_text.read),
    Format("prometheus-json", "power", prometheus_json.sniff, prometheus_json.read),
    Format("prometheus-json-watts", "power", prometheus_json.never, prometheus_json.read_as_watts),
    Format("prometheus-text", "power", prometheus_text.sniff, prometheus_text.read),
    Format("power-csv", "power", power_csv.sniff, power_csv.read),
)
