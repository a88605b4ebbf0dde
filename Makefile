# orchestrator: sandbox VMs on one host, jobs over gRPC on vsock.
#
#   make run      install what is missing, build, make the image, run examples/hello.yaml
#   make test     unit tests (ASan, UBSan) and integration tests with real VMs
#   make test-kernel-vsock
#                 the kernel's vhost-vsock and libvirtd, in an outer VM where they are not here
#   make tsan     the unit tests that have threads, under TSan
#   make integration-san [SAN=thread] [FILTER=NAME]
#                 integration tests with daemon and commands under ASan and UBSan, or TSan
#   make test-faults [FAULT_RUNS=10] [FAULT='disk_full ...']
#                 each fault (tests/faults) so many times, and the daemon killed at each of its steps
#   make unit, make integration [FILTER=NAME]
#                 the halves of it, of what is installed already
#   make lint, make format
#   make fuzz [FUZZ_SECONDS=30]
#                 libFuzzer on all that parses bytes of others
#   make image [IMAGES='debian minimal']
#   make kernel   the guest kernel of our own, which boots faster; then make image
#   make install [PREFIX=/usr/local] [DESTDIR=]
#   make deps     all packages that any of these needs
#   make help     this list

O       := build
CC      ?= gcc
VERSION := 0.1.0

# --- what is built from what ---------------------------------------------------------------------

PROTOS := job worker control

COMMON := \
	common/error.c \
	common/failpoint.c \
	common/file_batch.c \
	common/file_tree_send.c \
	common/file_tree_write.c \
	common/files.c \
	common/log.c \
	common/log_file.c \
	common/remove_tree.c \
	common/rpc.c \
	common/rpc_call.c \
	common/rpc_client.c \
	common/rpc_conn.c \
	common/rpc_message.c \
	common/rpc_poll.c \
	common/rpc_server.c \
	common/sock.c \
	common/text.c \
	common/util.c \
	common/worker_api.c \
	common/worker_proof.c

ORCHESTRATOR := \
	orchestrator/accel.c \
	orchestrator/attempt.c \
	orchestrator/attempt_files.c \
	orchestrator/attempt_vm.c \
	orchestrator/ballast.c \
	orchestrator/bench_measure.c \
	orchestrator/bench_plot.c \
	orchestrator/bench_report.c \
	orchestrator/bench_result.c \
	orchestrator/bench_stats.c \
	orchestrator/bench_vm.c \
	orchestrator/bounded.c \
	orchestrator/capacity.c \
	orchestrator/cid.c \
	orchestrator/config.c \
	orchestrator/config_pool.c \
	orchestrator/control.c \
	orchestrator/control_api.c \
	orchestrator/control_attempts.c \
	orchestrator/control_host.c \
	orchestrator/control_jobs.c \
	orchestrator/control_logs.c \
	orchestrator/control_retry.c \
	orchestrator/control_submit.c \
	orchestrator/control_submit_many.c \
	orchestrator/control_submit_plain.c \
	orchestrator/cpio.c \
	orchestrator/daemon.c \
	orchestrator/domain_xml.c \
	orchestrator/embed_left.c \
	orchestrator/guest.c \
	orchestrator/guest_run.c \
	orchestrator/host.c \
	orchestrator/host_connect.c \
	orchestrator/image.c \
	orchestrator/image_apt.c \
	orchestrator/image_build.c \
	orchestrator/image_kernel.c \
	orchestrator/image_known.c \
	orchestrator/image_manifest.c \
	orchestrator/image_modules.c \
	orchestrator/image_parts.c \
	orchestrator/image_plan.c \
	orchestrator/image_recipe.c \
	orchestrator/image_root.c \
	orchestrator/image_tools.c \
	orchestrator/image_watch.c \
	orchestrator/job.c \
	orchestrator/input_list.c \
	orchestrator/jobs.c \
	orchestrator/jobs_pool.c \
	orchestrator/jobs_retry.c \
	orchestrator/jobs_run.c \
	orchestrator/jobspec.c \
	orchestrator/jobspec_rules.c \
	orchestrator/link_tree.c \
	orchestrator/loop.c \
	orchestrator/pool.c \
	orchestrator/pools.c \
	orchestrator/process.c \
	orchestrator/queue.c \
	orchestrator/rank_tree.c \
	orchestrator/record.c \
	orchestrator/recover.c \
	orchestrator/results.c \
	orchestrator/retention.c \
	orchestrator/retry.c \
	orchestrator/run_exit.c \
	orchestrator/scheduler.c \
	orchestrator/serve.c \
	orchestrator/spawn.c \
	orchestrator/store_queue.c \
	orchestrator/store_sqlite.c \
	orchestrator/store_sqlite_open.c \
	orchestrator/store_sqlite_read.c \
	orchestrator/tsc.c \
	orchestrator/virt.c \
	orchestrator/virt_connect.c \
	orchestrator/virt_op.c \
	orchestrator/vm.c \
	orchestrator/vm_adopt.c \
	orchestrator/vm_end.c \
	orchestrator/vm_files.c \
	orchestrator/vm_note.c \
	orchestrator/vm_watch.c \
	orchestrator/vm_worker.c \
	orchestrator/vsock.c \
	orchestrator/warm.c \
	orchestrator/watch.c \
	orchestrator/yaml_doc.c \
	orchestrator/yaml_table.c \
	orchestrator/yaml_value.c

CLI := \
	orchestrator/cli/attempt_view.c \
	orchestrator/cli/bench.c \
	orchestrator/cli/cancel.c \
	orchestrator/cli/cli.c \
	orchestrator/cli/config.c \
	orchestrator/cli/connect.c \
	orchestrator/cli/connect_start.c \
	orchestrator/cli/doctor.c \
	orchestrator/cli/doctor_checks.c \
	orchestrator/cli/fetch.c \
	orchestrator/cli/follow.c \
	orchestrator/cli/gc.c \
	orchestrator/cli/help.c \
	orchestrator/cli/image.c \
	orchestrator/cli/interrupt.c \
	orchestrator/cli/job_source.c \
	orchestrator/cli/job_view.c \
	orchestrator/cli/launch.c \
	orchestrator/cli/list.c \
	orchestrator/cli/logs.c \
	orchestrator/cli/main.c \
	orchestrator/cli/one_job.c \
	orchestrator/cli/options.c \
	orchestrator/cli/output.c \
	orchestrator/cli/progress.c \
	orchestrator/cli/reconnect.c \
	orchestrator/cli/report.c \
	orchestrator/cli/result.c \
	orchestrator/cli/retry.c \
	orchestrator/cli/run.c \
	orchestrator/cli/serve.c \
	orchestrator/cli/sink.c \
	orchestrator/cli/spec_options.c \
	orchestrator/cli/status.c \
	orchestrator/cli/stop.c \
	orchestrator/cli/submit.c \
	orchestrator/cli/submit_many.c \
	orchestrator/cli/upload.c \
	orchestrator/cli/validate.c \
	orchestrator/cli/version.c \
	orchestrator/cli/wait.c \
	orchestrator/cli/yaml_out.c

WORKER := \
	guest-worker/bench.c \
	guest-worker/cgroup.c \
	guest-worker/execution.c \
	guest-worker/execution_attach.c \
	guest-worker/execution_events.c \
	guest-worker/execution_exit.c \
	guest-worker/executor.c \
	guest-worker/files.c \
	guest-worker/fw_cfg.c \
	guest-worker/init.c \
	guest-worker/job_init.c \
	guest-worker/job_root.c \
	guest-worker/job_user.c \
	guest-worker/launch.c \
	guest-worker/launch_plan.c \
	guest-worker/launch_start.c \
	guest-worker/listener.c \
	guest-worker/main.c \
	guest-worker/output.c \
	guest-worker/root_disk.c \
	guest-worker/run.c \
	guest-worker/sandbox.c \
	guest-worker/service.c \
	guest-worker/spare.c

VSOCK_DEVICE := \
	orchestrator/vsock-device/conn.c \
	orchestrator/vsock-device/conn_guest.c \
	orchestrator/vsock-device/conn_host.c \
	orchestrator/vsock-device/device.c \
	orchestrator/vsock-device/iov.c \
	orchestrator/vsock-device/main.c \
	orchestrator/vsock-device/memory.c \
	orchestrator/vsock-device/packet.c \
	orchestrator/vsock-device/sandbox.c \
	orchestrator/vsock-device/vhost_user.c \
	orchestrator/vsock-device/vring.c

UNIT_TESTS := \
	tests/unit/test_accel.c \
	tests/unit/test_attempt_files.c \
	tests/unit/test_ballast.c \
	tests/unit/test_bench.c \
	tests/unit/test_bounded.c \
	tests/unit/test_cid.c \
	tests/unit/test_cli.c \
	tests/unit/test_cli_jobs.c \
	tests/unit/test_config.c \
	tests/unit/test_control.c \
	tests/unit/test_control_logs.c \
	tests/unit/test_control_many.c \
	tests/unit/test_control_retry.c \
	tests/unit/test_control_retry_logs.c \
	tests/unit/test_control_submit.c \
	tests/unit/test_domain_xml.c \
	tests/unit/test_embed_left.c \
	tests/unit/test_file_batch.c \
	tests/unit/test_file_tree.c \
	tests/unit/test_file_tree_send.c \
	tests/unit/test_guest.c \
	tests/unit/test_host.c \
	tests/unit/test_image.c \
	tests/unit/test_image_build.c \
	tests/unit/test_image_kernel.c \
	tests/unit/test_image_parts.c \
	tests/unit/test_job.c \
	tests/unit/test_jobs.c \
	tests/unit/test_jobs_pool.c \
	tests/unit/test_jobspec.c \
	tests/unit/test_log_file.c \
	tests/unit/test_pool.c \
	tests/unit/test_process.c \
	tests/unit/test_queue.c \
	tests/unit/test_remove_tree.c \
	tests/unit/test_results.c \
	tests/unit/test_retention.c \
	tests/unit/test_retry.c \
	tests/unit/test_rpc.c \
	tests/unit/test_rpc_hostile.c \
	tests/unit/test_rpc_later.c \
	tests/unit/test_rpc_loss.c \
	tests/unit/test_rpc_poll.c \
	tests/unit/test_run_exit.c \
	tests/unit/test_scheduler.c \
	tests/unit/test_serve.c \
	tests/unit/test_sock.c \
	tests/unit/test_spawn.c \
	tests/unit/test_store.c \
	tests/unit/test_store_errors.c \
	tests/unit/test_store_queue.c \
	tests/unit/test_util.c \
	tests/unit/test_vm_note.c \
	tests/unit/test_vm_watch.c \
	tests/unit/test_vsock_conn.c \
	tests/unit/test_vsock_packet.c \
	tests/unit/test_vsock_vring.c \
	tests/unit/test_worker_executor.c \
	tests/unit/test_worker_files.c \
	tests/unit/test_worker_output.c \
	tests/unit/test_worker_run.c \
	tests/unit/test_worker_service.c \
	tests/unit/test_worker_user.c \
	tests/unit/test_yaml_table.c

FUZZERS := \
	tests/fuzz/fuzz_config.c \
	tests/fuzz/fuzz_console.c \
	tests/fuzz/fuzz_control.c \
	tests/fuzz/fuzz_file_tree.c \
	tests/fuzz/fuzz_jobspec.c \
	tests/fuzz/fuzz_kernel.c \
	tests/fuzz/fuzz_manifest.c \
	tests/fuzz/fuzz_recipe.c \
	tests/fuzz/fuzz_results.c \
	tests/fuzz/fuzz_state_files.c \
	tests/fuzz/fuzz_text.c \
	tests/fuzz/fuzz_vhost_user.c \
	tests/fuzz/fuzz_vring.c \
	tests/fuzz/fuzz_vsock_packet.c

# V=1 shows the commands.
V ?=
Q := $(if $(V),,@)
say = @printf '  %-5s %s\n' $(1) $(2)

# --- flags ---------------------------------------------------------------------------------------

# SAN=1 builds everything with ASan and UBSan, SAN=thread with TSan, FAILPOINTS=1 with places to be
# killed at (common/failpoint.h), each in its own directory.
SAN ?=
comma := ,
FAILPOINTS ?=
ifeq ($(SAN),)
B        := $(O)$(if $(FAILPOINTS),/failpoints)
OBJ      := $(B)/obj
BIN      := $(B)/bin
LIBEXEC  := $(B)/libexec/orchestrator
OPT      := -O2 -g
HARDEN   := -D_FORTIFY_SOURCE=2 -fstack-protector-strong -fstack-clash-protection -fcf-protection
LDHARDEN := -Wl,-z,relro,-z,now -pie
PIE      := -fPIE
else
B        := $(O)/$(if $(filter thread,$(SAN)),tsan,san)$(if $(FAILPOINTS),/failpoints)
OBJ      := $(B)/obj
BIN      := $(B)/bin
LIBEXEC  := $(B)/libexec/orchestrator
# The vsock device fences against its guest, which no thread of ours is: TSan need not know.
SANITIZE := $(if $(filter thread,$(SAN)),-fsanitize=thread -Wno-tsan,-fsanitize=address$(comma)undefined)
OPT      := -O1 -g $(SANITIZE) -fno-sanitize-recover=undefined -fno-omit-frame-pointer
HARDEN   :=
LDHARDEN := $(SANITIZE)
PIE      :=
endif
GEN      := $(O)/gen

WARN := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wcast-qual \
	-Wsign-compare -Wformat=2 -Wvla -Werror
CPPFLAGS += -D_GNU_SOURCE -DORCHESTRATOR_VERSION='"$(VERSION)"' -I. -I$(GEN) -I/usr/include/libxml2 \
	$(if $(FAILPOINTS),-DFAILPOINTS)
CFLAGS   ?= $(OPT)
ALL_CFLAGS = -std=gnu11 $(CFLAGS) $(PIE) $(HARDEN) $(WARN)

RPC_LIBS  := -lgrpc_unsecure -lgpr -lprotobuf-c -lpthread
HOST_LIBS := -lvirt -lxml2 -luv -lsqlite3 -lyaml -ljansson -lsodium $(RPC_LIBS) -lm
# pkg-config --static leaves out what gRPC bundles or needs beneath it.
WORKER_LIBS = -Wl,--start-group -lgrpc_unsecure -lgpr -laddress_sorting -lupb \
	$(shell pkg-config --static --libs grpc_unsecure | tr ' ' '\n' | grep absl | awk '!seen[$$0]++') \
	-lprotobuf-c -lcares -lz -lsodium -lseccomp -lstdc++ -Wl,--end-group -lm

# --- targets -------------------------------------------------------------------------------------

.PHONY: all help deps run test unit integration lint format image kernel install clean programs worker
all: programs

help:
	@sed -n 's/^#   //p' Makefile

GEN_C := $(PROTOS:%=$(GEN)/%.pb-c.c)
GEN_H := $(PROTOS:%=$(GEN)/%.pb-c.h)

obj = $(patsubst %.c,$(OBJ)/%.o,$(1))
GEN_O          := $(PROTOS:%=$(OBJ)/gen/%.pb-c.o)
COMMON_O       := $(call obj,$(COMMON)) $(GEN_O)
ORCHESTRATOR_O := $(call obj,$(ORCHESTRATOR))
CLI_O          := $(call obj,$(CLI))
WORKER_O       := $(call obj,$(WORKER))
VSOCK_DEVICE_O := $(call obj,$(VSOCK_DEVICE))
UNIT_BIN       := $(patsubst tests/unit/%.c,$(BIN)/unit/%,$(UNIT_TESTS))

programs: $(BIN)/orchestrator $(LIBEXEC)/vsock-device worker
worker: $(LIBEXEC)/guest-worker

$(GEN)/%.pb-c.c $(GEN)/%.pb-c.h &: proto/%.proto
	@mkdir -p $(GEN)
	$(call say,GEN,$<)
	$(Q)protoc-c --c_out=$(GEN) -Iproto $<

# Generated code is not ours to warn about.
$(OBJ)/gen/%.o: $(GEN)/%.c $(GEN_H)
	@mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) -std=gnu11 $(CFLAGS) $(PIE) $(HARDEN) -c -o $@ $<

$(OBJ)/%.o: %.c | $(GEN_H)
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(Q)$(CC) $(CPPFLAGS) $(ALL_CFLAGS) -MMD -MP -c -o $@ $<

# Everything but the mains, so that a test links what it needs and no more.
$(OBJ)/libcommon.a: $(COMMON_O)
$(OBJ)/liborchestrator.a: $(ORCHESTRATOR_O) $(filter-out %/main.o,$(CLI_O))
$(OBJ)/libworker.a: $(filter-out %/main.o,$(WORKER_O))
$(OBJ)/libvsock-device.a: $(filter-out %/main.o,$(VSOCK_DEVICE_O))
$(OBJ)/%.a:
	@mkdir -p $(@D)
	@rm -f $@
	$(Q)$(AR) rcs $@ $^

$(BIN)/orchestrator: $(filter %/main.o,$(CLI_O)) $(OBJ)/liborchestrator.a $(OBJ)/libcommon.a
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) $(LDHARDEN) -o $@ $^ $(HOST_LIBS)

# Of common/ just these: it faces the guest, so it is small.
$(LIBEXEC)/vsock-device: $(VSOCK_DEVICE_O) \
		$(call obj,common/error.c common/files.c common/log.c common/text.c common/util.c)
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) $(LDHARDEN) -o $@ $^ -lseccomp

# Fully static: it must run in any root file system, and as PID 1 of an otherwise empty one.
$(LIBEXEC)/guest-worker: $(filter %/main.o,$(WORKER_O)) $(OBJ)/libworker.a $(OBJ)/libcommon.a
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) -s -static -o $@ $^ $(WORKER_LIBS) 2>$@.log || { cat $@.log >&2; exit 1; }

$(BIN)/unit/%: tests/unit/%.c $(OBJ)/liborchestrator.a $(OBJ)/libworker.a $(OBJ)/libvsock-device.a \
		$(OBJ)/libcommon.a
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) $(CPPFLAGS) $(ALL_CFLAGS) $(LDHARDEN) -o $@ $< $(filter %.o,$^) $(filter %.a,$^) \
		-lcmocka -lseccomp $(HOST_LIBS)

# These put a fake in the place of attempt.c and host.c: an object, so that it is found first.
FAKE_ATTEMPT := $(call obj,tests/unit/fake_attempt.c)
$(BIN)/unit/test_control $(BIN)/unit/test_control_logs $(BIN)/unit/test_control_many \
$(BIN)/unit/test_control_retry $(BIN)/unit/test_control_retry_logs \
$(BIN)/unit/test_control_submit $(BIN)/unit/test_serve: \
	$(FAKE_ATTEMPT) $(call obj,tests/unit/control_fixture.c)
$(BIN)/unit/test_store_errors: $(FAKE_ATTEMPT) \
	$(call obj,tests/unit/control_fixture.c tests/unit/faulty_vfs.c)
$(BIN)/unit/test_jobs $(BIN)/unit/test_jobs_pool $(BIN)/unit/test_retention: \
	$(FAKE_ATTEMPT) $(call obj,tests/unit/jobs_fixture.c)
$(BIN)/unit/test_worker_executor $(BIN)/unit/test_worker_output: \
	$(call obj,tests/unit/executor_fixture.c)
$(BIN)/unit/test_store: $(call obj,tests/unit/store_fixture.c \
	tests/unit/store_conformance_jobs.c tests/unit/store_conformance_lists.c)

unit:
	$(MAKE) SAN=1 unit-programs
	@tests/run-unit $(O)/san/bin/unit
.PHONY: unit-programs
unit-programs: $(UNIT_BIN)

# The units that have threads, under TSan, which wants an address space that is not random. Libraries are
# not built with it: what they do is not looked at, and what gRPC hands over is told (rpc_internal.h).
# Not test_worker_executor: a job's init is a copy of the process, TSan's locks with it, and hangs.
TSAN_TESTS := test_accel test_bounded test_control test_control_logs test_control_many test_control_retry \
	test_control_retry_logs test_control_submit test_guest test_host test_jobs test_jobs_pool \
	test_log_file test_retention test_rpc test_rpc_hostile test_rpc_later test_rpc_loss test_rpc_poll test_serve \
	test_sock test_store_errors test_store_queue test_vm_watch test_worker_files test_worker_run \
	test_worker_service
tsan_options := ignore_noninstrumented_modules=1
.PHONY: tsan
tsan:
	@$(MAKE) --no-print-directory SAN=thread $(TSAN_TESTS:%=$(O)/tsan/bin/unit/%)
	@for t in $(TSAN_TESTS); do \
		echo "$$t"; \
		TSAN_OPTIONS=$(tsan_options) \
		timeout 600 setarch -R $(O)/tsan/bin/unit/$$t >$(O)/tsan/$$t.log 2>&1 || \
			{ cat $(O)/tsan/$$t.log; exit 1; }; \
	done

# Real VMs, with the sanitizers in all that runs on the host; with SAN=thread TSan in the daemon and the
# commands, which are what has threads. The worker is the usual one: it is static, and TCG slow enough.
# Deadlines that the tests set are met on a machine that has little else to do.
SAN_TESTS := hello|adopt|big_output|cancel|daemon_killed|exit_codes|files|gc|interrupt|many_followers
SAN_TESTS := $(SAN_TESTS)|pool|pool_room|retry|run_survives_kills|ten_jobs|timeout
san_dir   := $(O)/$(if $(filter thread,$(SAN)),tsan,san)
.PHONY: integration-san
integration-san:
	@$(MAKE) --no-print-directory SAN= programs image failpoints
	@$(MAKE) --no-print-directory SAN=$(or $(SAN),1) $(san_dir)/bin/orchestrator
	@$(MAKE) --no-print-directory SAN=$(or $(SAN),1) FAILPOINTS=1 \
		$(san_dir)/failpoints/bin/orchestrator
	@$(if $(filter thread,$(SAN)),mkdir -p $(san_dir)/libexec $(san_dir)/failpoints/libexec && \
		ln -sfn ../../libexec/orchestrator $(san_dir)/libexec/orchestrator && \
		ln -sfn ../../../libexec/orchestrator $(san_dir)/failpoints/libexec/orchestrator,\
		$(MAKE) --no-print-directory SAN=1 $(san_dir)/libexec/orchestrator/vsock-device && \
		$(MAKE) --no-print-directory SAN=1 FAILPOINTS=1 \
			$(san_dir)/failpoints/libexec/orchestrator/vsock-device)
	@ln -sfn ../share $(san_dir)/share
	ORCHESTRATOR_BUILD=$(CURDIR)/$(san_dir) TSAN_OPTIONS=$(tsan_options) \
		INTEGRATION_TIMEOUT=1200 setarch -R tests/integration/run \
		--filter '$(or $(FILTER),^($(SAN_TESTS))$$)'

# Programs that bring the vsock device, a QEMU and a guest together: a test and a benchmark.
VSOCK_PROGRAMS := $(BIN)/tests/vsock_device $(BIN)/tests/vsock_bench
vsock_common   := $(call obj,tests/integration/vsock_vm.c \
	common/error.c common/files.c common/remove_tree.c common/text.c common/util.c)
$(BIN)/tests/vsock_device: $(call obj,tests/integration/vsock_device.c) $(vsock_common)
$(BIN)/tests/vsock_bench: $(call obj,tests/bench/vsock_bench.c) $(vsock_common)
$(VSOCK_PROGRAMS):
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) $(LDHARDEN) -o $@ $^
.PHONY: vsock-programs
vsock-programs: $(LIBEXEC)/vsock-device $(VSOCK_PROGRAMS)

# What the RPC layer costs, for tests/bench/bench-rpc.
$(BIN)/tests/rpc_bench: $(call obj,tests/bench/rpc_bench.c) $(OBJ)/libcommon.a
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) $(LDHARDEN) -o $@ $^ -lsodium $(RPC_LIBS)
.PHONY: rpc-bench
rpc-bench: $(BIN)/tests/rpc_bench

# A VM that is up and answers, for tests/bench/bench-warm.
$(BIN)/warm_bench: $(call obj,tests/bench/warm_bench.c) $(OBJ)/liborchestrator.a \
		$(OBJ)/libcommon.a
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) $(LDHARDEN) -o $@ $^ $(HOST_LIBS)
.PHONY: warm-bench
warm-bench: $(BIN)/warm_bench

# The same with files, for tests/bench/bench-files.
$(BIN)/files_bench: $(call obj,tests/bench/files_bench.c) $(OBJ)/liborchestrator.a \
		$(OBJ)/libcommon.a
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) $(LDHARDEN) -o $@ $^ $(HOST_LIBS)
.PHONY: files-bench
files-bench: $(BIN)/files_bench

# What the kernel lane asks beside the product. The first runs in guests too, so it is static.
KERNEL_VSOCK_PROGRAMS := $(BIN)/tests/vsock_probe $(BIN)/tests/stranger
$(BIN)/tests/vsock_probe: $(call obj,tests/kernel-vsock/vsock_probe.c)
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) -static -o $@ $^
$(BIN)/tests/stranger: $(call obj,tests/kernel-vsock/stranger.c) $(OBJ)/libcommon.a
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) $(LDHARDEN) -o $@ $^ $(RPC_LIBS) -lsodium

# The product as installed, with the kernel's vhost-vsock and libvirtd: here where this machine has
# them, else in an outer VM.
.PHONY: test-kernel-vsock
test-kernel-vsock: programs $(KERNEL_VSOCK_PROGRAMS)
	@$(MAKE) --no-print-directory image IMAGES=minimal
	tests/kernel-vsock/run

# Benchmarks of the daemon's own parts; store_bench compares with PostgreSQL, by libpq.
$(BIN)/tests/scheduler_bench: $(call obj,tests/bench/scheduler_bench.c) $(OBJ)/liborchestrator.a \
		$(OBJ)/libcommon.a
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) $(LDHARDEN) -o $@ $^ $(HOST_LIBS)
$(OBJ)/tests/bench/store_bench_pg.o: CPPFLAGS += -I/usr/include/postgresql
$(BIN)/tests/store_bench: $(call obj,tests/bench/store_bench.c tests/bench/store_bench_pg.c \
		tests/bench/store_bench_socket.c) $(FAKE_ATTEMPT) \
		$(call obj,tests/unit/control_fixture.c) $(OBJ)/liborchestrator.a \
		$(OBJ)/libcommon.a
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) $(LDHARDEN) -o $@ $^ -lcmocka -lpq $(HOST_LIBS)

# Fuzzers (FUZZ_SEED 0: another way through each time, else the same): built by clang from all
# sources, and run for FUZZ_SECONDS each, from the few inputs in
# tests/fuzz/seeds on. What they find and what they learn stays in build/fuzz; V=1 shows libFuzzer's
# own words.
FUZZ_SECONDS ?= 30
FUZZ_SEED    ?= 0
FUZZ_CFLAGS  := -std=gnu11 -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined \
	-fno-omit-frame-pointer
fuzz_obj      = $(patsubst %.c,$(O)/fuzz/obj/%.o,$(1))
FUZZ_SOURCES := $(filter-out %/main.c,$(ORCHESTRATOR) $(CLI) $(VSOCK_DEVICE)) $(COMMON)
FUZZ_BIN     := $(patsubst tests/fuzz/%.c,$(O)/fuzz/%,$(FUZZERS))

$(O)/fuzz/obj/%.o: %.c | $(GEN_H)
	@mkdir -p $(@D)
	$(Q)clang $(CPPFLAGS) $(FUZZ_CFLAGS) -fsanitize=fuzzer-no-link -MMD -MP -c -o $@ $<
$(O)/fuzz/obj/gen/%.o: $(GEN)/%.c $(GEN_H)
	@mkdir -p $(@D)
	$(Q)clang $(CPPFLAGS) $(FUZZ_CFLAGS) -fsanitize=fuzzer-no-link -c -o $@ $<
$(O)/fuzz/obj/all.a: $(call fuzz_obj,$(FUZZ_SOURCES)) $(PROTOS:%=$(O)/fuzz/obj/gen/%.pb-c.o)
	@rm -f $@
	$(Q)$(AR) rcs $@ $^
$(O)/fuzz/%: tests/fuzz/%.c $(O)/fuzz/obj/all.a
	$(call say,FUZZ,$@)
	$(Q)clang $(CPPFLAGS) $(FUZZ_CFLAGS) -fsanitize=fuzzer -o $@ $^ -lseccomp $(HOST_LIBS)

.PHONY: fuzz
fuzz: $(FUZZ_BIN)
	@for f in $(FUZZ_BIN); do \
		mkdir -p $$f.corpus; \
		echo "$${f##*/}: $(FUZZ_SECONDS) s"; \
		$$f -max_total_time=$(FUZZ_SECONDS) -seed=$(FUZZ_SEED) -artifact_prefix=$$f- $$f.corpus \
			$$(ls -d tests/fuzz/seeds/$${f##*/fuzz_} 2>/dev/null) \
			$(if $(V),,>$$f.log 2>&1) || { tail -n 60 $$f.log; exit 1; }; \
	done

# The daemon to be killed, its device, and a worker to be killed; tests/integration/test_adopt.sh and
# tests/faults/test_worker_lost.sh use them.
.PHONY: failpoints test-faults
failpoints:
	@$(MAKE) --no-print-directory FAILPOINTS=1 $(O)/failpoints/bin/orchestrator \
		$(O)/failpoints/libexec/orchestrator/vsock-device \
		$(O)/failpoints/libexec/orchestrator/guest-worker
# Faults, FAULT_RUNS times each; FAULT names some of tests/faults/run --list, "store" the errors under
# SQLite, "daemon" the daemon killed at each of its failpoints. About an hour for all.
FAULT_RUNS ?= 10
FAULT      ?=
faults_vm  := $(filter-out store daemon,$(FAULT))
test-faults: programs image failpoints
	$(if $(filter store,$(if $(FAULT),$(FAULT),store)),\
		$(MAKE) --no-print-directory SAN=1 $(O)/san/bin/unit/test_store_errors && \
		FAULT_RUNS=$(FAULT_RUNS) $(O)/san/bin/unit/test_store_errors 2>$(O)/store-errors.log)
	$(if $(faults_vm)$(if $(FAULT),,all),tests/faults/run --runs $(FAULT_RUNS) $(faults_vm))
	$(if $(filter daemon,$(if $(FAULT),$(FAULT),daemon)),tests/faults/kill-daemon)

integration: programs image failpoints
	tests/integration/run $(if $(FILTER),--filter '$(FILTER)')

# What is missing is installed first, so that these two work on a bare machine; the rest is another
# make, which then finds it.
JOBS := -j$(shell nproc)
run:
	@scripts/deps run
	@$(MAKE) --no-print-directory $(JOBS) programs
	@$(MAKE) --no-print-directory image IMAGES=debian
	$(BIN)/orchestrator run examples/hello.yaml

test:
	@scripts/deps run test
	@$(MAKE) --no-print-directory $(JOBS) SAN=1 unit-programs
	@$(MAKE) --no-print-directory $(JOBS) programs
	@$(MAKE) --no-print-directory $(JOBS) failpoints
	@$(MAKE) --no-print-directory image
	@failed=; \
	tests/run-unit $(O)/san/bin/unit || failed=1; \
	tests/integration/run || failed=1; \
	tests/faults/run --runs 1 --sample || failed=1; \
	[ ! "$$failed" ] || { echo "make test: what failed is above, by FAIL"; exit 1; }

deps:
	@scripts/deps

C_FILES := $(wildcard common/*.[ch] orchestrator/*.[ch] orchestrator/*/*.[ch] guest-worker/*.[ch] \
	tests/*/*.[ch])
format:
	clang-format -i $(C_FILES)

SCRIPTS = $(shell grep -rlE '^\#!/bin/(ba)?sh' .ci scripts tests vm-images)
SOURCED = $(filter-out $(SCRIPTS),$(wildcard tests/*.sh tests/*/*.sh))
lint: $(GEN_H)
	@clang-format --dry-run -Werror $(C_FILES)
	@cppcheck --quiet --error-exitcode=1 --enable=warning,performance,portability --inline-suppr \
		--suppressions-list=tests/cppcheck.supp --std=c11 -D_GNU_SOURCE -I. \
		common orchestrator guest-worker
	@shellcheck --severity=warning -x $(SCRIPTS)
	@shellcheck --severity=warning -x --shell=bash $(SOURCED)

# --- images --------------------------------------------------------------------------------------

# The build directory is laid out like an installation, so the program finds its own there.
IMAGES ?= debian minimal
SHARE  := $(O)/share/orchestrator
image: programs
	@mkdir -p $(O)/cache $(SHARE)
	@ln -sfn $(CURDIR)/vm-images $(SHARE)/vm-images
	@for i in $(IMAGES); do \
		$(BIN)/orchestrator image build $$i --image-dir $(SHARE)/images || exit; \
	done

# The guest kernel of our own; `make image` puts it into the images afterwards.
kernel:
	@scripts/deps run kernel
	@vm-images/kernel/build $(SHARE)/kernel $(O)/cache

# --- install -------------------------------------------------------------------------------------

PREFIX  ?= /usr/local
DESTDIR ?=
inst     = $(DESTDIR)$(PREFIX)
# Below a home directory there is no /etc to write to; the configuration is then ~/.config's.
etc      = $(if $(filter /usr /usr/local,$(PREFIX)),$(DESTDIR)/etc/orchestrator)
install: programs
	install -d $(inst)/bin $(inst)/libexec/orchestrator $(inst)/share/orchestrator \
		$(inst)/share/doc/orchestrator $(inst)/share/man/man1 $(inst)/share/man/man5 \
		$(inst)/share/bash-completion/completions $(inst)/lib/systemd/system $(etc)
	install -m755 $(BIN)/orchestrator $(inst)/bin/
	install -m755 $(LIBEXEC)/vsock-device $(LIBEXEC)/guest-worker $(inst)/libexec/orchestrator/
	cp -R vm-images $(inst)/share/orchestrator/
	test ! -e $(SHARE)/kernel/vmlinux || \
		install -D -m444 $(SHARE)/kernel/vmlinux $(inst)/share/orchestrator/kernel/vmlinux
	install -m644 config/job.schema.json $(inst)/share/orchestrator/
	install -m644 README.md $(wildcard docs/*.md) $(inst)/share/doc/orchestrator/
	cp -R docs/img $(inst)/share/doc/orchestrator/
	cp -R examples $(inst)/share/doc/orchestrator/
	install -m644 $(wildcard docs/man/*.1) $(inst)/share/man/man1/
	install -m644 $(wildcard docs/man/*.5) $(inst)/share/man/man5/
	install -m644 config/completion.bash $(inst)/share/bash-completion/completions/orchestrator
	sed 's|/usr/bin/orchestrator|$(PREFIX)/bin/orchestrator|' config/orchestrator.service \
		> $(inst)/lib/systemd/system/orchestrator.service
	install -m644 config/orchestrator.yaml $(inst)/share/doc/orchestrator/
	$(if $(etc),test -e $(etc)/orchestrator.yaml || \
		install -m644 config/orchestrator.yaml $(etc)/)

clean:
	rm -rf $(O)/obj $(O)/fuzz/obj $(O)/san $(O)/tsan $(O)/failpoints $(O)/gen $(O)/bin $(O)/libexec

-include $(shell find $(OBJ) $(O)/fuzz/obj -type f -name '*.d' 2>/dev/null)
