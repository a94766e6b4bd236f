"""Small recordings of power in every format, made here, with the watts that each holds."""

import io
import json
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq

WATTS = (61.5, 305.25, 612.75, 480.0)
"""What GPU or meter 0 draws, one reading after the other; a second one draws 10 W more."""
BOTH = (*WATTS, *(w + 10 for w in WATTS))
UUIDS = ("GPU-aaaaaaaa-0000-1111-2222-333333333333", "GPU-bbbbbbbb-0000-1111-2222-333333333333")


def analyser() -> bytes:
    return b"".join(
        b"Time,07-17-2024 08:04:%02d.774,Watts,%.6f,Volts,239.2,Amps,3.4,PF,0.96,Mark,run_1,Ch1,Watts,%.6f,PF,0.96\n"
        % (k, w, w / 3)
        for k, w in enumerate(WATTS)
    )


def node() -> bytes:
    head = b'+ echo begin\n:::MLLOG {"namespace":"","time_ms":1715257320207,"event_type":"INTERVAL_START","key":'
    head += b'"power_measurement_start","value":"null","metadata":""}\n'
    line = (
        '":::MLLOG {"namespace": "", "time_ms": %d, "event_type": "POINT_IN_TIME", "key": "power_reading", "value": %r'
    )
    return head + b"".join(
        (line[1:] % (1715257322000 + 2000 * k, w) + ', "metadata": ""}\n').encode() for k, w in enumerate(WATTS)
    )


def normalised() -> bytes:
    return b"t_s,node_power_w,phase\n" + b"".join(b"%d.000,%.2f,load\n" % (k, w) for k, w in enumerate(WATTS))


def nodes() -> bytes:
    rows = [b"sensor,node,time_ms,power_w\n"]
    for node in (0, 1):
        rows += [b"ac,%d,%d,%.2f\n" % (node, 1715257322000 + 2000 * k, w + 10 * node) for k, w in enumerate(WATTS)]
    return b"".join(rows)


def smi_csv() -> bytes:
    rows = [b"timestamp, index, power.draw [W], power.limit [W], power.draw.instant [W], name\n"]
    for k, w in enumerate(WATTS):
        for gpu in (0, 1):
            rows.append(
                b"2024/07/14 10:12:%02d.483, %d, 99.00 W, 700.00 W, %.2f W, NVIDIA H100\n" % (k, gpu, w + 10 * gpu)
            )
    return b"".join(rows)


def smi_xml() -> bytes:
    documents = []
    for k in range(4):
        gpus = "".join(
            f'\t<gpu id="00000000:0{gpu}:00.0">\n\t\t<uuid>{UUIDS[gpu]}</uuid>\n\t\t<gpu_power_readings>\n'
            f"\t\t\t<power_draw>{WATTS[k] + 10 * gpu} W</power_draw>\n\t\t\t<power_limit>700.00 W</power_limit>\n"
            "\t\t</gpu_power_readings>\n\t\t<module_power_readings>\n\t\t\t<power_draw>N/A</power_draw>\n"
            "\t\t</module_power_readings>\n\t</gpu>\n"
            for gpu in (0, 1)
        )
        documents.append(
            '<?xml version="1.0" ?>\n<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">\n<nvidia_smi_log>\n'
            f"\t<timestamp>Fri Aug  4 11:44:3{k} 2023</timestamp>\n{gpus}</nvidia_smi_log>\n"
        )
    return "".join(documents).encode()


def smi_text() -> bytes:
    logs = []
    for k in range(4):
        gpus = "".join(
            f"GPU 00000000:0{gpu}:00.0\n    Product Name                   : NVIDIA H100\n"
            f"    GPU UUID                       : {UUIDS[gpu]}\n    GPU Power Readings\n"
            f"        Average Power Draw             : 1.00 W\n"
            f"        Instantaneous Power Draw       : {WATTS[k] + 10 * gpu} W\n"
            "        Current Power Limit            : 700.00 W\n    Module Power Readings\n"
            "        Instantaneous Power Draw       : 5000.00 W\n"
            for gpu in (0, 1)
        )
        logs.append(
            "\n==============NVSMI LOG==============\n\nTimestamp                          : "
            f"Tue Jul 14 08:12:3{k} 2026\nAttached GPUs                      : 2\n{gpus}"
        )
    return "".join(logs).encode()


def smi_dmon() -> bytes:
    head = b"#Date       Time     gpu    pwr  gtemp     sm \n#YYYYMMDD   HH:MM:SS Idx      W      C      % \n"
    rows = [
        b" 20240501   12:00:%02d    %d   %.2f     44    100 \n" % (k, gpu, w + 10 * gpu)
        for k, w in enumerate(WATTS)
        for gpu in (0, 1)
    ]
    return head + b"".join(rows)


def _dcgmi(header: bytes, units: bytes) -> bytes:
    """Rows one second apart, as the energy counter tells; the mean over the intervals is that of the readings."""
    step_mj = round(sum(WATTS) / len(WATTS) * 1000)
    rows = []
    for k, w in enumerate(WATTS):
        if k % 2 == 0:
            rows.append(header + units)
        rows.append(
            b"GPU 0     N/A          0.000     %.3f            %d          1785  \n" % (w, 9_000_000 + k * step_mj)
        )
        rows.append(
            b"GPU 1     0.500        0.000     %.3f            %d          1785  \n"
            % (w + 10, 9_000_000 + k * (step_mj + 10_000))
        )
        rows.append(b"GPU-I 0   0.500        0.000     %.3f            N/A          N/A  \n" % w)
    return b"".join(rows)


def dcgmi_tight() -> bytes:
    return _dcgmi(
        b"#Entity   GRACT        MUSAM     POWER             TOTEC               SACLK  \n", b"ID      W   mJ\n"
    )


def dcgmi_loose() -> bytes:
    return _dcgmi(b"# Entity  GRACT  MUSAM       POWER             TOTEC  SACLK\n", b"      Id      W   mJ   \n")


def scrape() -> bytes:
    text = []
    for k, w in enumerate(WATTS):
        text.append("# HELP DCGM_FI_DEV_POWER_USAGE Power draw (in W).\n# TYPE DCGM_FI_DEV_POWER_USAGE gauge\n")
        for gpu in (0, 1):
            labels = f'gpu="{gpu}",UUID="{UUIDS[gpu]}",modelName="NVIDIA \\"H\\" 100",Hostname="n1"'
            ms = 1773114089000 + 1000 * k
            text.append(f"DCGM_FI_DEV_POWER_USAGE{{{labels}}} {w + 10 * gpu} {ms}\n")
            text.append(
                f'DCGM_FI_DEV_POWER_USAGE{{{labels},GPU_I_PROFILE="1g.10gb",GPU_I_ID="7"}} {w + 10 * gpu} {ms}\n'
            )
            text.append(f"DCGM_FI_DEV_GPU_TEMP{{{labels}}} 44 {ms}\n")
    return "".join(text).encode()


def answer() -> bytes:
    series = [
        {
            "metric": {"__name__": "DCGM_FI_DEV_POWER_USAGE", "UUID": UUIDS[gpu], "gpu": str(gpu), "a": 'x]}"\\'},
            "values": [[1773114089.5 + k, str(w + 10 * gpu)] for k, w in enumerate(WATTS)],
        }
        for gpu in (0, 1)
    ]
    return json.dumps({"status": "success", "data": {"resultType": "matrix", "result": series}}, indent=1).encode()


def parquet() -> bytes:
    table = pa.table(
        {
            "source": [f"n{gpu}" for gpu in (0, 1) for _ in WATTS],
            "time_s": [1715257322.0 + k for _ in (0, 1) for k in range(4)],
            "power_w": list(BOTH),
        }
    )
    stream = io.BytesIO()
    pq.write_table(table, stream)
    return stream.getvalue()


SAMPLES: dict[str, tuple[Callable[[], bytes], str, int]] = {
    "analyser": (analyser, "mlperf-analyser", 1),
    "node": (node, "mlperf-node", 1),
    "normalised": (normalised, "power-csv", 1),
    "nodes": (nodes, "power-csv", 2),
    "smi_csv": (smi_csv, "nvidia-smi-csv", 2),
    "smi_xml": (smi_xml, "nvidia-smi-xml", 2),
    "smi_text": (smi_text, "nvidia-smi-text", 2),
    "smi_dmon": (smi_dmon, "nvidia-smi-dmon", 2),
    "dcgmi_tight": (dcgmi_tight, "dcgmi-dmon", 2),
    "dcgmi_loose": (dcgmi_loose, "dcgmi-dmon", 2),
    "scrape": (scrape, "prometheus-text", 2),
    "answer": (answer, "prometheus-json", 2),
    "parquet": (parquet, "power-parquet", 2),
}
"""Name -> how it is made, its format, and how many sources it has."""
