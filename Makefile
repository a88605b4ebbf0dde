# orchestrator: sandbox VMs on one host, jobs over gRPC on vsock.
#
#   make run      install what is missing, build, make the image, run examples/hello.yaml
#   make test     unit tests (ASan, UBSan) and integration tests with real VMs
#   make help     all targets

O       := build
CC      ?= gcc
VERSION := 0.1.0

# --- what is built from what ---------------------------------------------------------------------

PROTOS := job worker control

COMMON := \
	common/error.c \
	common/file_tree_send.c \
	common/file_tree_write.c \
	common/log.c \
	common/rpc.c \
	common/rpc_client.c \
	common/rpc_message.c \
	common/rpc_server.c \
	common/sock.c \
	common/util.c \
	common/worker_api.c \
	common/worker_proof.c

ORCHESTRATOR := \
	orchestrator/control_api.c \
	orchestrator/job.c

CLI := \
	orchestrator/cli/main.c

WORKER := \
	guest-worker/main.c

VSOCK_DEVICE := \
	orchestrator/vsock-device/main.c

UNIT_TESTS := \
	tests/unit/test_util.c

FUZZERS :=

# --- flags ---------------------------------------------------------------------------------------

# SAN=1 builds everything with ASan and UBSan, in its own directory.
SAN ?=
ifeq ($(SAN),)
OBJ      := $(O)/obj
BIN      := $(O)/bin
LIBEXEC  := $(O)/libexec/orchestrator
OPT      := -O2 -g
HARDEN   := -D_FORTIFY_SOURCE=2 -fstack-protector-strong -fstack-clash-protection -fcf-protection
LDHARDEN := -Wl,-z,relro,-z,now -pie
PIE      := -fPIE
else
OBJ      := $(O)/san/obj
BIN      := $(O)/san/bin
LIBEXEC  := $(O)/san/libexec/orchestrator
OPT      := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
HARDEN   :=
LDHARDEN := -fsanitize=address,undefined
PIE      :=
endif
GEN      := $(O)/gen

WARN := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wcast-qual \
	-Wsign-compare -Wformat=2 -Wvla -Werror
CPPFLAGS += -D_GNU_SOURCE -DORCHESTRATOR_VERSION='"$(VERSION)"' -I. -I$(GEN)
CFLAGS   ?= $(OPT)
ALL_CFLAGS = -std=gnu11 $(CFLAGS) $(PIE) $(HARDEN) $(WARN)

RPC_LIBS  := -lgrpc_unsecure -lgpr -lprotobuf-c -lpthread
HOST_LIBS := -lvirt-qemu -lvirt -luv -lsqlite3 -lyaml -ljansson -lsodium $(RPC_LIBS) -lm
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
	protoc-c --c_out=$(GEN) -Iproto $<

# Generated code is not ours to warn about.
$(OBJ)/gen/%.o: $(GEN)/%.c $(GEN_H)
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) -std=gnu11 $(CFLAGS) $(PIE) $(HARDEN) -c -o $@ $<

$(OBJ)/%.o: %.c | $(GEN_H)
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(ALL_CFLAGS) -MMD -MP -c -o $@ $<

# Everything but the mains, so that a test links what it needs and no more.
$(OBJ)/libcommon.a: $(COMMON_O)
$(OBJ)/liborchestrator.a: $(ORCHESTRATOR_O) $(filter-out %/main.o,$(CLI_O))
$(OBJ)/libworker.a: $(filter-out %/main.o,$(WORKER_O))
$(OBJ)/libvsock-device.a: $(filter-out %/main.o,$(VSOCK_DEVICE_O))
$(OBJ)/%.a:
	@mkdir -p $(@D)
	@rm -f $@
	$(AR) rcs $@ $^

$(BIN)/orchestrator: $(filter %/main.o,$(CLI_O)) $(OBJ)/liborchestrator.a $(OBJ)/libcommon.a
	@mkdir -p $(@D)
	$(CC) $(LDHARDEN) -o $@ $^ $(HOST_LIBS)

$(LIBEXEC)/vsock-device: $(filter %/main.o,$(VSOCK_DEVICE_O)) $(OBJ)/libvsock-device.a
	@mkdir -p $(@D)
	$(CC) $(LDHARDEN) -o $@ $^ -lseccomp

# Fully static: it must run in any root file system, and as PID 1 of an otherwise empty one.
$(LIBEXEC)/guest-worker: $(filter %/main.o,$(WORKER_O)) $(OBJ)/libworker.a $(OBJ)/libcommon.a
	@mkdir -p $(@D)
	$(CC) -s -static -o $@ $^ $(WORKER_LIBS) 2>$@.log || { cat $@.log >&2; exit 1; }

$(BIN)/unit/%: tests/unit/%.c $(OBJ)/liborchestrator.a $(OBJ)/libworker.a $(OBJ)/libvsock-device.a \
		$(OBJ)/libcommon.a
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(ALL_CFLAGS) $(LDHARDEN) -o $@ $< $(filter %.a,$^) -lcmocka -lseccomp $(HOST_LIBS)

unit:
	$(MAKE) SAN=1 unit-programs
	@tests/run-unit $(O)/san/bin/unit
.PHONY: unit-programs
unit-programs: $(UNIT_BIN)

clean:
	rm -rf $(O)/obj $(O)/san $(O)/gen $(O)/bin $(O)/libexec

-include $(shell find $(O) -name '*.d' 2>/dev/null)
