"""Sentences between the tables of the page of scaling; numbers in braces are derived or measured.

Each stands between two tables, or before the rows of the limits.
"""

HURRY = """\
## Data

### N images on G GPUs: what to set, what is needed

Derived for {model} at {rate} images/s a GPU ({source}). Assumed: images of 110 kB in
shards of 10,000 (1.1 GB, `mae pack --shard-size 10000`), 8 GPUs a node, GPUs that never wait. For
other numbers: `python -m benchmarks.scaling --images 3e8 --gpus 64 --image-kb 40`.
"""

PROCESSES = """\
- **Always**: `mae index SHARDS --out ALL.safetensors` once, and `data.train=ALL.safetensors`.
- **Shards on disks or a shared file system**: `data.order=global` where it answers as many random
  reads a second as the GPUs take images, else `data.order=window`.
- **Shards on a server**: one node, `data.order=window`; more, `data.order=lanes` with
  `data.window={window}` and `data.lanes` as above, the most GPUs that the run will ever have: other
  lanes are another order. `data.cache_gb` as above or more; `global` would fetch all to every node.
- **Decoding**: {loaded} images/s of a core (measured, crops of 224 px), so {cores_of_gpu} cores for
  a GPU of {rate} images/s; `data.repeats`, `mae pack --resize 256` and `data.decode_on_device=true`
  need fewer.

### A process as the data set grows

Measured: `{command}`, {date},
{machine}, load {load}; two processes at once, the larger number. Memory beside imports, and CPU
time from opening the manifest to a batch at 90 % of an epoch, in order `global` / `window` /
`lanes`. Up to 20 million images all rows are checked. † rows that are not read are holes in the
file. On the right, derived from measured bytes an image: a list of (path, class) in Python, as
torchvision's `ImageFolder` keeps in every process; the indexes of the shards in the memory of a
node's first process, as without a manifest.
"""

REQUESTS = """\
### Requests at a start

Derived from the requests of one process, measured with {measured_shards:,} shards
(`{command}`, {date}): a published manifest takes {manifest_first} at a node's first start and
{manifest_later} later; a list of shards {list_first:.0f} for each shard, later {list_later:.0f}.
One process of a node asks; on the right the trivial way, in which each process asks for each shard.
A process of `mae.ShardStream` asks for itself: publish a manifest.
"""

INDEX = """\
### Indexing and packing

Measured: `{command}`, {date}, {machine}, load {load}: images a second of one
core, by CPU time (a quieter one loads 965 images of 400 × 530 px, BENCHMARKS.md). `index` reads and
hashes every byte, `pack` also decodes every image. Both divide the shards among the processes of
`accelerate launch … -m mae`, or `--part I/N` of a job array and `--join`.
"""

HOURS = """\
Derived for images of 110 kB; for `index` storage delivers {index_gb:.0f} GB/s to {cores} cores:
"""

ORDERS = """\
A manifest is written from cached indexes at {cached} million images/s of one core, and checked at
{checked} million/s where it was downloaded; `data.val` is compared with {compared} million training
images/s in the first process, at each start.

### What storage delivers, by order

Derived, for GPUs that never wait. *Files*, on disks or a shared file system: an image is one random
read, in `global` from any shard (mostly after opening it: a reader keeps 64 open), in `window` from
16 shards at a time, in `lanes` from those of the process's own lanes. *Server*: whole shards, once
to each node that reads any of their images: in `lanes` to one node, in `window` to all. `global`
fetches all shards to every node once and needs them in its cache. What is fetched is hashed at
{sha256} GB/s of a core (measured).
"""

CACHE = """\
### Disk of a node's cache

Derived with the program's own check of `data.cache_gb`: two windows of the node's lanes, in shards
of 1.1 GB. Measured: a fetch into a full cache takes {few_ms:.0f} ms of CPU with 1,000 copies and
{many_ms:.0f} ms with 10,000 (`{command}`, {date}, load {load}), one at a time on a node.
"""

RANKS = """\
### Shards that a rank reads

Measured by counting: `{command}`, {date}. 10,000,000 samples in 10,000 shards,
`data.window=16 data.lanes=1024`, one epoch. The positions of all 1,024 ranks, as training and
`mae.ShardStream` take them, hold every sample exactly once in each order, in epochs 0 and 799.
"""

LIMITS = """\
### Where the limits lie

Derived, with the measured rates above.
"""

LIMIT_ROWS = (
    ("at", "what gives way first", "set"),
    ("--", "--", "--"),
    (
        "1e8 images",
        "without a manifest: {memory_1e8} of indexes in a node's memory, {requests_1e8} requests "
        "of each node at each start",
        "`mae index --out`",
    ),
    (
        "",
        "`data.order=global` from a server: {all_1e8} of cache on each node",
        "`window`; on many nodes `lanes`",
    ),
    (
        "1e9 images",
        "first start: each node downloads {manifest_1e9} of manifest and checks it in "
        "{checked_1e9} of a core",
        "a shared file system for it, or for `data.index_dir`",
    ),
    (
        "",
        "classifiers: {labels_1e9} of labels in each process while they start",
        "up to 1e8 labelled images",
    ),
    ("", "one core indexes for {index_1e9} and packs for {pack_1e9}", "more cores and machines"),
    (
        "1e10 images",
        "`data.val`: its images are looked for in `data.train` for {compared_1e10} at each start",
        "evaluate after training",
    ),
    (
        "",
        "a manifest takes {manifest_1e10}, and twice that while it is written",
        "several data sets in `data.mixture`",
    ),
    (
        "3.5e10 images",
        "a manifest of more than 1.1 TB is not downloaded",
        "a shared file system",
    ),
    (
        "a node of 8 GPUs",
        "shards of 1,000 images from a server: {small_shards:,.0f} fetches a second, of "
        "{few_ms:.0f} ms each, one after the other, in a cache with 1,000 copies",
        "shards of 10,000",
    ),
    (
        "64 processes",
        "`window` from a server: {window_64} for 8 nodes, where `lanes` takes {lanes_64}",
        "`lanes`",
    ),
    ("65 processes", "`data.lanes=64`, the default, divides among 64", "`data.lanes=1024`"),
    ("256 processes", "the recipe's batch of 4,096: 16 images a GPU", "a larger batch (below)"),
    (
        "1,024 processes",
        "`data.window=16 data.lanes=1024` on 64 of them: {cache_16} of cache on a node",
        "`data.window={window}`",
    ),
    (
        "",
        "few shards: of {few_shards} each is read by {few_times:.1f} nodes",
        "1,000 shards or more",
    ),
)

OVERFLOW = """\
No number overflows: positions, samples and offsets have 64 bits. Tests draw, open and read a
manifest of 1e10 images, and an image behind 5 GB of its shard.
"""
