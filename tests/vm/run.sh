# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Sourced by vm: one run of one guest.

# Lines of a kernel log that fail a run.
reports='WARNING: |BUG: |kernel BUG at|Oops|KASAN|KFENCE|UBSAN|KCSAN|general protection fault|Kernel panic'
reports+='|INFO: task .* blocked for more than|possible (circular|recursive) locking|inconsistent lock state'
reports+='|possible irq lock inversion|suspicious RCU usage|INFO: lockdep|DEBUG_LOCKS_WARN|held lock freed'
reports+='|lock held when returning|rcu: INFO: .* stall|soft lockup|hard LOCKUP|workqueue lockup|unreferenced object'
reports+='|refcount_t: |list_(add|del) corruption|[Ss]lab .*(corrupt|overwritten)|Object already free|page allocation failure'
reports+='|Objects remaining in|scheduling while atomic|Bad page|bad: scheduling|Call Trace:'

# How much longer guests of the debug kernel may take.
DEBUG_SLOWER=5

# accelerator: "kvm" only if a guest's kernel was seen to boot with it since this machine came up; else "tcg".
accelerator() {
	local dir=$1 boot seen=build/vm/accel probe
	[ -w /dev/kvm ] || { echo tcg; return; }
	mkdir -p build/vm
	boot=$(cat /proc/sys/kernel/random/boot_id)
	if [ "$(cut -d ' ' -f 1 "$seen" 2>/dev/null)" != "$boot" ]; then
		probe=$(timeout -k 1 8 qemu-system-x86_64 -accel kvm -m 256 -display none -monitor none -nodefaults \
			-kernel "$dir/kernel" -append 'console=ttyS0 panic=-1' -no-reboot -serial stdio 2>/dev/null </dev/null |
			tr -d '\0' | grep -c 'Linux version')
		echo "$boot $([ "${probe:-0}" -gt 0 ] && echo kvm || echo tcg)" >"$seen.$$" && mv "$seen.$$" "$seen"
	fi
	cut -d ' ' -f 2 "$seen"
}

# clock_args: keeps the guest's time right. Emulated, the guest's TSC is the host's; a busy host spoils the guest's
# measurement of its rate, so the rate is told. Where the host itself distrusts its TSC, the guest uses the HPET.
clock_args() {
	local khz
	khz=$(tsc_khz)
	if [ -n "$khz" ]; then
		echo "tsc_early_khz=$khz tsc=reliable"
	else
		echo "clocksource=hpet tsc=unstable"
	fi
}

tsc_khz() {
	local tool=build/guest/tsc-khz
	grep -q -w constant_tsc /proc/cpuinfo && grep -q -w nonstop_tsc /proc/cpuinfo || return 0
	if [ ! -x "$tool" ]; then
		mkdir -p build/guest
		gcc -O2 -o "$tool.$$" "$here/tsc-khz.c" && mv "$tool.$$" "$tool" || return 0
	fi
	"$tool"
}

qemu_pid='' run_dir='' relay_pid='' monitor_pid=''
cleanup() {
	trap - EXIT
	[ -n "$qemu_pid" ] && kill -KILL "$qemu_pid" 2>/dev/null
	[ -n "$relay_pid" ] && kill "$relay_pid" "$monitor_pid" 2>/dev/null
	[ -n "$run_dir" ] && rm -rf "$run_dir"
}

# disk_args KIND FILE FORMAT INDEX [BLOCK SIZE]: QEMU's arguments for one test disk.
disk_args() {
	local kind=$1 file=$2 format=$3 i=$4 bs=${5:-512}
	printf '%s\n' -drive "if=none,id=d$i,file=${file//,/,,},format=$format,cache=unsafe,discard=unmap,detect-zeroes=off"
	case $kind in
	virtio) printf '%s\n' -device "virtio-blk-pci,drive=d$i,serial=disk$i,logical_block_size=$bs,physical_block_size=$bs" ;;
	scsi) printf '%s\n' -device "virtio-scsi-pci,id=s$i" \
		-device "scsi-hd,bus=s$i.0,drive=d$i,serial=disk$i,logical_block_size=$bs,physical_block_size=$bs" ;;
	paths) printf '%s\n' -device "nvme-subsys,id=n$i,nqn=subsys$i" -device "nvme,id=p$i,subsys=n$i,serial=disk$i" \
		-device "nvme,id=q$i,subsys=n$i,serial=disk$i" \
		-device "nvme-ns,bus=p$i,drive=d$i,shared=on,logical_block_size=$bs,physical_block_size=$bs" ;;
	nvme) printf '%s\n' -device "nvme,drive=d$i,serial=disk$i,logical_block_size=$bs,physical_block_size=$bs" ;;
	*) return 1 ;;
	esac
}

# add_disk disk|image WORD: appends to "disks" and "drivers" what --disk or --image asks for.
add_disk() {
	local what=$1 word=$2 kind=virtio bs=512 base opt i=$ndisks file format
	base=${word%%,*}
	for opt in $(tr , ' ' <<<"${word#"$base"}"); do
		case $opt in scsi | nvme | paths | virtio) kind=$opt ;; 4k) bs=4096 ;; *) die "unknown disk option $opt" ;; esac
	done
	if [ "$what" = disk ]; then
		file=$run_dir/disk$i format=raw
		truncate -s "$base" "$file" || die "no disk of size $base"
		fresh+=("$base" "$file")
	else
		file=$(realpath "$base") && [ -e "$file" ] || die "no image $base"
		kept_disks=1
		format=$(qemu-img info --output=json "$file" | sed -n 's/.*"format": "\([a-z0-9]*\)".*/\1/p' | tail -n 1)
	fi
	case $kind in scsi) drivers+=' virtio_scsi sd_mod' ;; nvme | paths) drivers+=' nvme' ;; esac
	mapfile -t -O "${#disks[@]}" disks < <(disk_args $kind "$file" "$format" "$i" $bs)
	ndisks=$((ndisks + 1))
}

run_guest() {
	local suite=$1 mem=1024 smp=2 append='' limit=300 allow='^$' keep='' initrd='' disks=() ndisks=0 drivers='' module='' dir
	local fresh=() kept_disks=0 single='' more=() accel i
	shift
	mkdir -p build/tmp
	sweep_runs
	run_dir=$(mktemp -d build/tmp/vm.XXXXXX) || die "no folder for the run"
	run_dir=$(realpath "$run_dir")
	echo $$ >"$run_dir/pid"
	trap cleanup EXIT
	trap 'exit 129' HUP; trap 'exit 130' INT; trap 'exit 143' TERM
	while [ $# -gt 0 ]; do
		case $1 in
		--disk) add_disk disk "$2"; shift 2 ;;
		--image) add_disk image "$2"; shift 2 ;;
		--mem) mem=$2; shift 2 ;;
		--smp) smp=$2; shift 2 ;;
		--append) append=$2; shift 2 ;;
		--timeout) limit=$2; shift 2 ;;
		--allow) allow=$2; shift 2 ;;
		--log) keep=$2; shift 2 ;;
		--net) disks+=(-netdev user,id=net -device virtio-net-pci,netdev=net,romfile=); drivers+=' virtio_net'; shift ;;
		--module) module=$2; shift 2 ;;
		--initrd) initrd=$2; shift 2 ;;
		--single) single=1; shift ;;
		--qemu) read -r -d '' -a more <<<"$2"; shift 2 ;;
		--) shift; break ;;
		*) die "unknown option $1" ;;
		esac
	done
	[ $# -gt 0 ] || die "no command"
	# Checking all that the kernel does takes memory and time: a minute and a half alone to run what QEMU's older machine tells by
	# ACPI of its interrupts.
	[ "$suite" != debug ] || mem=$((mem * 2)) limit=$((limit * DEBUG_SLOWER)) disks+=(-machine q35)
	dir=$(image "$suite") || exit 125
	[ -n "$module" ] || build_module "$suite" || exit 125
	[ -n "$module" ] || [ ! -f kmod/Kbuild ] || module=build/kmod/$suite
	programs || exit 125
	payload "$suite" "$dir" "$run_dir" "$drivers" "$module" "$@" || die "no payload"
	accel=$(accelerator "$dir")
	[ -z "$single" ] || [ "$accel" != tcg ] || accel=tcg,thread=single
	boot "$dir" "$accel" "$mem" "$smp" "$append" "$limit" "${disks[@]}"
	# A kernel that dies before it starts any program has seen nothing of ours: emulation does that now and then.
	if [ $timed_out = 0 ] && [ ! -s "$run_dir/status" ] && ! grep -a -q 'Run /init as init' "$run_dir/console"; then
		echo "vm: the kernel did not come up; once more" >&2
		boot "$dir" "$accel" "$mem" "$smp" "$append" "$limit" "${disks[@]}"
	fi
	if [ "$accel" = tcg ] && [ $kept_disks = 0 ] && ran_stale_code; then
		echo "vm: the emulator ran code that the guest had replaced; all of it once more, on one thread" >&2
		for ((i = 0; i < ${#fresh[@]}; i += 2)); do
			: >"${fresh[i + 1]}" && truncate -s "${fresh[i]}" "${fresh[i + 1]}" || die "no fresh disk"
		done
		boot "$dir" tcg,thread=single "$mem" "$smp" "$append" "$limit" "${disks[@]}"
	fi
	judge "$allow" "$keep"
}

# ran_stale_code: did the guest stumble over a breakpoint that was gone? Kernels change their code (for ftrace) under a
# breakpoint on its first byte. QEMU before 8.1 can keep the translation of a breakpoint for good if one processor
# translates it at the moment that another one takes it away ("accel/tcg: Always lock pages before translation" ended
# that). The processor then traps for ever on the first byte of a function, or dies of an int3 that nobody owns. A stock
# kernel whose function tracer is switched on and off does so within a second; with all processors on one thread of the
# emulator it cannot happen.
ran_stale_code() {
	grep -a -q 'int3: 0000' "$run_dir/console" ||
		grep -a -A 12 'soft lockup - CPU' "$run_dir/console" | grep -q 'RIP: 0010:[A-Za-z0-9_.]*+0x[04]/'
}

# explain: what the guest's processors and blocked tasks do, before it is ended: into its log, and their registers (no
# symbols; but the guest need not answer) into the monitor's.
explain() {
	printf 'info registers -a\n' >&8
	printf 'sendkey alt-sysrq-%s\n' l w >&8
	sleep 10
	printf 'info registers -a\n' >&8
	sleep 1
}

# boot IMAGE-DIR ACCELERATOR MEM SMP APPEND LIMIT DISK-ARG...: runs QEMU (also with what "more" says) until it ends or LIMIT is
# over; sets "timed_out".
boot() {
	local dir=$1 accel=$2 mem=$3 smp=$4 append=$5 limit=$6 cpu
	shift 6
	cpu=$([ "$accel" = kvm ] && echo host || echo max,-avx,-avx2,-la57)
	rm -f "$run_dir/out" "$run_dir/late" "$run_dir"/monitor.*
	mkfifo "$run_dir/out" "$run_dir/monitor.in" "$run_dir/monitor.out"
	exec 8<>"$run_dir/monitor.in"
	: >"$run_dir/console"
	: >"$run_dir/status"
	cat "$run_dir/out" &
	relay_pid=$!
	cat "$run_dir/monitor.out" >"$run_dir/monitor.log" &
	monitor_pid=$!
	setpriv --pdeathsig KILL qemu-system-x86_64 -accel "$accel" -cpu "$cpu" -m "$mem" -smp "$smp" \
		-nodefaults -no-user-config -no-reboot -display none \
		-chardev "pipe,id=monitor,path=$run_dir/monitor" \
		-mon chardev=monitor,mode=readline \
		-kernel "$dir/kernel" -initrd "${initrd:-$dir/initrd}" \
		-append "console=ttyS0 loglevel=7 panic=-1 oops=panic mitigations=off nokaslr audit=0 random.trust_cpu=on \
watchdog_thresh=60 softlockup_panic=1 softlockup_all_cpu_backtrace=1 sysrq_always_enabled workqueue.watchdog_thresh=120 rcupdate.rcu_cpu_stall_timeout=240 \
sysctl.kernel.hung_task_timeout_secs=200 sysctl.kernel.hung_task_panic=1 $(clock_args) $append" \
		-chardev "file,id=console,path=$run_dir/console" -serial chardev:console \
		"$@" \
		-drive "if=none,id=base,file=$dir/base.img,format=raw,readonly=on" \
		-device virtio-blk-pci,drive=base,serial=tm-base \
		-drive "if=none,id=payload,file=$run_dir/payload.img,format=raw,readonly=on" \
		-device virtio-blk-pci,drive=payload,serial=tm-payload \
		-device virtio-serial-pci \
		-chardev "file,id=out,path=$run_dir/out" -device virtserialport,chardev=out,name=out \
		-chardev "file,id=status,path=$run_dir/status" -device virtserialport,chardev=status,name=status \
		-device virtio-rng-pci "${more[@]}" </dev/null >"$run_dir/qemu.log" 2>&1 &
	qemu_pid=$!
	timed_out=0
	# Ends by itself soon after QEMU, also when nobody is left to end it.
	( timeout "$limit" tail --pid=$qemu_pid -s 1 -f /dev/null
	  [ $? = 124 ] && touch "$run_dir/late" && explain && kill -TERM $qemu_pid ) 2>/dev/null &
	wait $qemu_pid
	exec 8>&-
	qemu_pid=''
	[ -e "$run_dir/late" ] && timed_out=1
	# QEMU opens the pipe early; if it failed before that, nobody will close it.
	[ -s "$run_dir/status" ] || kill $relay_pid $monitor_pid 2>/dev/null
	wait $relay_pid $monitor_pid 2>/dev/null
	relay_pid='' monitor_pid=''
}

# judge ALLOW KEEP: the run's verdict, as the exit status of the harness.
judge() {
	local allow=$1 keep=$2 log=$run_dir/kernel status
	tr -d '\0\r' <"$run_dir/console" >"$log"
	[ -z "$keep" ] || cp "$log" "$keep"
	status=$(cat "$run_dir/status" 2>/dev/null)
	[ $timed_out = 0 ] || sed '/sysrq: Show/,$d' "$log" >"$log.before"
	[ $timed_out = 1 ] || cp "$log" "$log.before"
	if grep -E "$reports" "$log.before" | grep -v -E -q "$allow"; then
		echo "vm: the kernel's log holds a report:" >&2
		grep -E -B 2 -A 40 -m 3 "$reports" "$log.before" | head -n 150 | sed 's/^/vm| /' >&2
		exit 99
	fi
	if [ $timed_out = 1 ]; then
		echo "vm: timed out; the kernel's log ends, what it was doing, and where its processors were:" >&2
		{
			tail -n 20 "$log.before"
			sed -n '/sysrq: Show/,$p' "$log" | grep -v ' ? ' | head -n 150
			grep -a -o -E 'CPU#[0-9]+|RIP=[0-9a-f]+|HLT=[01]' "$run_dir/monitor.log" | paste -s -d ' '
		} | sed 's/^/vm| /' >&2
		exit 124
	fi
	if [ -z "$status" ]; then
		echo "vm: the guest ended without a word; the kernel's log ends:" >&2
		{ cat "$run_dir/qemu.log"; tail -n 30 "$log"; } | sed 's/^/vm| /' >&2
		exit 125
	fi
	exit "$status"
}

# sweep_runs: folders of runs whose harness was killed.
sweep_runs() {
	local d pid
	for d in build/tmp/vm.*; do
		pid=$(cat "$d/pid" 2>/dev/null) && ! kill -0 "$pid" 2>/dev/null && rm -rf "$d"
	done
	return 0
}
