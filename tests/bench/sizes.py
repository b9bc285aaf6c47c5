"""How much work each row does: as its text says, or tiny for --quick."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Sizes:
    sources: int  # W1: files to compile
    headers: int
    files: int  # W2, W3, W5, W8: small files
    big_mib: int  # W4, W8
    random_reads: int
    repository: int  # W5: files of a git repository
    null_steps: int  # W6
    null_looks: tuple  # observations a step
    null_trees: tuple  # files in the workspace
    copy_tree: int  # W6: files that Harmont's way copies
    start_steps: int  # W7
    values: tuple  # W9: recorded values of a step's inputs
    names: int  # W10
    vm_names: int  # VM
    vm_files: int
    vm_bulk_mib: int
    vm_sources: int


FULL = Sizes(sources=200, headers=50, files=10_000, big_mib=1024, random_reads=20_000,
             repository=50_000, null_steps=20, null_looks=(200, 5000),
             null_trees=(1_000, 10_000, 100_000, 1_000_000), copy_tree=100_000, start_steps=50,
             values=(1, 16, 1000), names=1_000_000,
             vm_names=1_000, vm_files=2_000, vm_bulk_mib=200, vm_sources=20)
QUICK = Sizes(sources=1, headers=1, files=200, big_mib=8, random_reads=200, repository=200,
              null_steps=4, null_looks=(20, 100), null_trees=(200, 1_000), copy_tree=200,
              start_steps=4, values=(1, 2, 8), names=2_000,
              vm_names=20, vm_files=20, vm_bulk_mib=8, vm_sources=1)
