"""Every sub-command of xl 4.17, in the order of its manual: what pyxen has, and what it does not have yet."""

from __future__ import annotations

from pyxen.cli.command import Command
from pyxen.cli.command_module import CommandModule

block = CommandModule("block")
cpupool = CommandModule("cpupool")
create = CommandModule("create")
life_cycle = CommandModule("life_cycle")
listing = CommandModule("listing")
machine = CommandModule("machine")
memory = CommandModule("memory")
network = CommandModule("network")
scheduler = CommandModule("scheduler")
signals = CommandModule("signals")
top = CommandModule("top")
vcpus = CommandModule("vcpus")

_DOMAIN, _HOST, _SCHEDULER, _CPUPOOL, _DEVICE, _OTHER = "domain", "Xen host", "scheduler", "CPU pool", "virtual device", "other"

_CONFIG_OPTIONS = "-f FILE, --defconfig=FILE   the configuration file"
_SNAPSHOTS = "saving and moving domains"
_ACPI = "-F   as xl has it; a pv domain has no ACPI to fall back to"
_WAIT = f"-a, --all    all guests\n-w, --wait   wait until it is down; twice: until the domain is gone\n{_ACPI}"
_SIZE = "<Domain> <MemMB['b'[bytes]|'k'[KB]|'m'[MB]|'g'[GB]|'t'[TB]]>"


def _absent(group: str, missing: str, names: str) -> list[Command]:
    return [Command(name, group, "", f"not implemented: {missing}", missing=missing, common=False) for name in names.split()]


COMMANDS: tuple[Command, ...] = (
    Command(
        "create",
        _DOMAIN,
        "<ConfigFile> [options] [vars]",
        "Create a domain from a configuration file",
        create.create,
        f"{_CONFIG_OPTIONS}\n"
        "-c                          attach to the console, from its first byte\n"
        "-F                          stay in the foreground until the domain's death\n"
        "-p                          leave the domain paused\n"
        "-q, --quiet                 print nothing\n"
        "-n, --dryrun                print the resulting configuration only (or use the global -N)\n"
        "-d                          print the resulting configuration too\n"
        "-e                          accepted: the host process watches every domain\n"
        "--timing                    print what the start spent its time on (not in Xen)\n"
        "key=value                   a setting that overrides the file's\n"
        "A ConfigFile of - is the standard input.",
        modifies=True,
        can_dry_run=True,
    ),
    Command(
        "config-update",
        _DOMAIN,
        "<Domain> <ConfigFile> [options] [vars]",
        "Replace a running domain's saved configuration, used when it is started anew",
        create.config_update,
        _CONFIG_OPTIONS,
        modifies=True,
        can_dry_run=True,
        common=False,
    ),
    Command(
        "list",
        _DOMAIN,
        "[options] [Domain]",
        "List information about all or some domains",
        listing.list_domains,
        "-l, --long      all details, as JSON\n-v, --verbose   UUIDs, reasons of shutdown and security labels\n"
        "-Z, --context   security labels\n-c, --cpupool   CPU pools\n-n, --numa      NUMA affinity",
    ),
    Command("destroy", _DOMAIN, "[options] <Domain>", "End a domain at once", life_cycle.destroy, "-f   permit domain 0", modifies=True),
    Command("shutdown", _DOMAIN, "[options] <-a|Domain>", "Ask a domain to shut down", life_cycle.shutdown, _WAIT, modifies=True),
    Command("reboot", _DOMAIN, "[options] <-a|Domain>", "Ask a domain to reboot", life_cycle.reboot, _WAIT, modifies=True),
    Command("pause", _DOMAIN, "<Domain>", "Pause a domain", life_cycle.pause, modifies=True),
    Command("unpause", _DOMAIN, "<Domain>", "Let a paused domain go on", life_cycle.unpause, modifies=True),
    Command(
        "console",
        _DOMAIN,
        "[options] <Domain>",
        "Attach to a domain's console; Ctrl-] leaves it",
        signals.console,
        "-t <type>     console type: pv\n-n <number>   console number: 0\n-e <key>      the key that leaves the console, ^] by default",
    ),
    *_absent(_DOMAIN, "a guest's screen", "vncviewer"),
    *_absent(_DOMAIN, _SNAPSHOTS, "save migrate restore"),
    *_absent(_DOMAIN, "dumping a domain's memory on request", "dump-core"),
    Command(
        "cd-insert",
        _DEVICE,
        "<Domain> <VirtualDevice> <path>",
        "Put an image into the CD drive of a running domain",
        block.cd_insert,
        modifies=True,
    ),
    Command("cd-eject", _DEVICE, "<Domain> <VirtualDevice>", "Empty the CD drive of a running domain", block.cd_eject, modifies=True),
    Command("mem-max", _DOMAIN, _SIZE, "Set the most memory that a domain may have", memory.mem_max, modifies=True),
    Command("mem-set", _DOMAIN, _SIZE, "Set the memory that a domain shall have now", memory.mem_set, modifies=True),
    *_absent(_DOMAIN, "hvm domains; deprecated by Xen in favour of trigger", "button-press"),
    Command("vcpu-list", _DOMAIN, "[Domain, ...]", "List the vCPUs of all or some domains", listing.vcpu_list),
    Command(
        "vcpu-pin",
        _DOMAIN,
        "[option] <Domain> <VCPU|all> <Hard affinity|-|all> <Soft affinity|-|all>",
        "Set which CPUs a VCPU can use",
        vcpus.vcpu_pin,
        "-f, --force   accepted: nothing else pins vCPUs",
        modifies=True,
    ),
    Command(
        "vcpu-set",
        _DOMAIN,
        "[option] <Domain> <vCPUs>",
        "Set the number of active VCPUs allowed for the domain",
        vcpus.vcpu_set,
        "-i, --ignore-host   don't limit the vCPUs by the host's CPUs",
        modifies=True,
    ),
    Command("vm-list", _DOMAIN, "", "List guests, without domain 0", listing.vm_list),
    Command("info", _HOST, "[options] [name]", "Show what the host is and has", machine.info, "-n, --numa   NUMA topology too"),
    *_absent(_HOST, "sharing of memory pages", "sharing"),
    Command(
        "sched-credit",
        _SCHEDULER,
        "[-d <Domain> [-w[=WEIGHT]|-c[=CAP]]] [-s [-t TSLICE] [-r RATELIMIT] [-m DELAY]] [-p CPUPOOL]",
        "Get/set credit scheduler parameters; no CPU pool of pyxen has this scheduler",
        scheduler.sched_credit,
        modifies=True,
    ),
    Command(
        "sched-credit2",
        _SCHEDULER,
        "[-d <Domain> [-w[=WEIGHT]|-c[=CAP]]] [-s [-r RATELIMIT]] [-p CPUPOOL]",
        "Get/set credit2 scheduler parameters",
        scheduler.sched_credit2,
        "-d DOMAIN, --domain=DOMAIN        the domain to show or modify\n"
        "-w WEIGHT, --weight=WEIGHT        1 to 65535; twice the weight, twice the CPU time\n"
        "-c CAP, --cap=CAP                 at most so many percent of a CPU; 0: no cap\n"
        "-s, --schedparam                  the parameters of a CPU pool\n"
        "-r RLIMIT, --ratelimit_us=RLIMIT  who got a CPU keeps it so long at least, in microseconds\n"
        "-p CPUPOOL, --cpupool=CPUPOOL     only this pool",
        modifies=True,
    ),
    Command(
        "sched-rtds",
        _SCHEDULER,
        "[-d <Domain> [-v[=VCPUID/all]] [-p[=PERIOD]] [-b[=BUDGET]] [-e[=EXTRATIME]]] [-c CPUPOOL]",
        "Get/set rtds scheduler parameters; no CPU pool of pyxen has this scheduler",
        scheduler.sched_rtds,
        modifies=True,
    ),
    Command("domid", _DOMAIN, "<DomainName>", "Convert a domain name to a domain id", listing.domid),
    Command("domname", _DOMAIN, "<DomainId>", "Convert a domain id to a domain name", listing.domname),
    Command("rename", _DOMAIN, "<Domain> <NewDomainName>", "Rename a domain", life_cycle.rename, modifies=True),
    Command(
        "trigger",
        _DOMAIN,
        "<Domain> <nmi|reset|init|power|sleep|s3resume> [<VCPU>]",
        "Send a trigger to a domain",
        signals.trigger,
        modifies=True,
    ),
    Command("sysrq", _DOMAIN, "<Domain> <letter>", "Send a Magic System Request to a domain", signals.sysrq, modifies=True),
    Command("debug-keys", _HOST, "<Keys>", "Send debug keys to the hypervisor", machine.debug_keys, modifies=True),
    *_absent(_HOST, "changing the hypervisor's parameters at run time", "set-parameters"),
    Command("dmesg", _HOST, "[-c]", "Show the hypervisor's messages", machine.dmesg, "-c, --clear   forget them after showing them"),
    Command(
        "top",
        _HOST,
        "[options]",
        "Monitor a host and the domains in real time",
        top.top,
        "-d, --delay=SECONDS     between updates, 3 by default\n"
        "-n, --networks          networks too\n"
        "-x, --vbds              disks too\n"
        "-v, --vcpus             vCPUs too\n"
        "-r, --repeat-header     a header before each domain\n"
        "-f, --full-name         names in full\n"
        "-b, --batch             plain text, one table after another\n"
        "-i, --iterations=N      end after so many",
    ),
    Command(
        "network-attach",
        _DEVICE,
        "<Domain> [<key>=<value> ...]",
        "Give a running domain a network interface, as an entry of vif= says",
        network.network_attach,
        modifies=True,
        can_dry_run=True,
    ),
    Command("network-list", _DEVICE, "<Domain> [<Domain> ...]", "List the network interfaces of domains", network.network_list),
    Command(
        "network-detach",
        _DEVICE,
        "[option] <Domain> <DevId|mac>",
        "Take a network interface away from a running domain",
        network.network_detach,
        "--force   do not wait for the guest to give it back",
        modifies=True,
    ),
    *_absent(_DEVICE, "channel devices", "channel-list"),
    Command(
        "block-attach",
        _DEVICE,
        "<Domain> <disk-spec-component(s)>...",
        "Give a running domain a disk, as an entry of disk= says",
        block.block_attach,
        modifies=True,
        can_dry_run=True,
    ),
    Command("block-list", _DEVICE, "<Domain> [<Domain> ...]", "List the disks of domains", block.block_list),
    Command(
        "block-detach",
        _DEVICE,
        "[option] <Domain> <DevId>",
        "Take a disk away from a running domain",
        block.block_detach,
        "--force   do not wait for the guest to give it back",
        modifies=True,
    ),
    *_absent(_DEVICE, "virtual TPMs", "vtpm-attach vtpm-list vtpm-detach"),
    *_absent(_DEVICE, "virtual keyboards", "vkb-attach vkb-list vkb-detach"),
    *_absent(_DEVICE, "virtual displays", "vdispl-attach vdispl-list vdispl-detach"),
    *_absent(_DEVICE, "virtual sound devices", "vsnd-attach vsnd-list vsnd-detach"),
    *_absent(_DEVICE, "virtual USB controllers", "usbctrl-attach usbctrl-detach usbdev-attach usbdev-detach usb-list"),
    *_absent(_DEVICE, "PCI passthrough", "pci-attach pci-detach pci-list pci-assignable-add pci-assignable-remove pci-assignable-list"),
    Command("uptime", _DOMAIN, "[-s] [Domain]", "Show how long domains have been running", listing.uptime, "-s   the short form"),
    *_absent(_HOST, "memory claims", "claims"),
    Command(
        "cpupool-create",
        _CPUPOOL,
        "[options] [<ConfigFile>] [Variable=value ...]",
        "Create a new CPU pool",
        cpupool.create,
        "-f FILE, --defconfig=FILE   the configuration file\n-n, --dryrun                show what would be created only",
        modifies=True,
        can_dry_run=True,
    ),
    Command("cpupool-list", _CPUPOOL, "[-c|--cpus] [<CPU Pool>]", "List CPU pools on host", cpupool.list_pools, "-c, --cpus   their CPUs"),
    Command("cpupool-destroy", _CPUPOOL, "<CPU Pool>", "Deactivate a CPU pool", cpupool.destroy, modifies=True),
    Command("cpupool-rename", _CPUPOOL, "<CPU Pool> <new name>", "Rename a CPU pool", cpupool.rename, modifies=True),
    Command("cpupool-cpu-add", _CPUPOOL, "<CPU Pool> <CPU list>", "Add CPUs to a CPU pool", cpupool.cpu_add, modifies=True),
    Command("cpupool-cpu-remove", _CPUPOOL, "<CPU Pool> <CPU list>", "Remove CPUs from a CPU pool", cpupool.cpu_remove, modifies=True),
    Command("cpupool-migrate", _CPUPOOL, "<Domain> <CPU Pool>", "Move a domain into a CPU pool", cpupool.migrate, modifies=True),
    Command("cpupool-numa-split", _CPUPOOL, "", "Split up the machine into one CPU pool per NUMA node", cpupool.numa_split, modifies=True),
    *_absent(_OTHER, "the Flask security module", "getenforce setenforce loadpolicy"),
    *_absent(_OTHER, _SNAPSHOTS, "remus migrate-receive"),
    *_absent(_OTHER, "driver domains", "devd"),
    *_absent(
        _OTHER,
        "monitoring and allocation of caches",
        "psr-hwinfo psr-cmt-attach psr-cmt-detach psr-cmt-show psr-cat-set psr-cat-show psr-mba-set psr-mba-show",
    ),
    *_absent(_OTHER, "device models", "qemu-monitor-command"),
)


def find(word: str) -> Command | None:
    """The command of that name, or the only one that begins so, as xl looks them up."""
    matches = [command for command in COMMANDS if command.name.startswith(word)]
    return next((command for command in matches if command.name == word), matches[0] if len(matches) == 1 else None)
