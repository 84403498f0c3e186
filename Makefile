# cworker: one Makefile, out-of-tree objects. `make help` lists the targets.
#
# Switches: WERROR=1 warnings are errors · SANITIZE=address,undefined · V=1 shows commands · B=dir

CC       ?= gcc
VERSION  := $(shell sed -n 's/.*CWORKER_VERSION "\(.*\)".*/\1/p' worker/version.h)
PREFIX   ?= /usr/local
DESTDIR  ?=
B        ?= build$(if $(SANITIZE),/$(subst $(comma),-,$(SANITIZE)))
comma    := ,
Q        := $(if $(V),,@)

PACKAGES := hiredis libmongoc-1.0 libcjson libevent libevent_openssl libevent_pthreads libcurl \
            openssl zlib liblzma expat
OPTIONAL := $(foreach p,libzstd libbrotlienc yaml-0.1 libpq,$(shell pkg-config --exists $(p) 2>/dev/null && echo $(p)))

WARN     := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla \
            -Wno-missing-field-initializers \
            $(if $(WERROR),-Werror)
CFLAGS   ?= -O2 -g
HARDEN   := -fPIE -fstack-protector-strong -fstack-clash-protection -Wformat -Wformat-security \
            $(if $(filter x86_64,$(shell uname -m)),-fcf-protection) \
            $(if $(SANITIZE)$(filter -O0,$(CFLAGS)),,-U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=3)
ALL_CFLAGS := -std=gnu11 -D_GNU_SOURCE -I. $(WARN) $(HARDEN) $(CFLAGS) \
             $(shell pkg-config --cflags $(PACKAGES) 2>/dev/null) \
             $(if $(filter libzstd,$(OPTIONAL)),-DHAVE_ZSTD) \
             $(if $(filter libbrotlienc,$(OPTIONAL)),-DHAVE_BROTLI) \
             $(if $(filter yaml-0.1,$(OPTIONAL)),-DHAVE_YAML) \
             $(if $(filter libpq,$(OPTIONAL)),-DHAVE_LIBPQ $(shell pkg-config --cflags libpq)) \
             $(if $(SANITIZE),-fsanitize=$(SANITIZE) -fno-omit-frame-pointer)
LIBS     := $(shell pkg-config --libs $(PACKAGES) $(OPTIONAL) 2>/dev/null) \
            $(if $(filter libbrotlienc,$(OPTIONAL)),-lbrotlidec) -lbz2 -lm -ldl -lpthread
LINK     := -pie -rdynamic -Wl,-z,relro,-z,now $(if $(SANITIZE),-fsanitize=$(SANITIZE))

SRC      := $(wildcard proto/base/*.c proto/*.c broker/*.c worker/*.c worker/*/*.c tasks/*.c tasks/*/*.c)
OBJ      := $(SRC:%.c=$(B)/%.o)
LIB      := $(B)/libcworker.a
FLAGS    := $(B)/flags
SOURCES  := $(B)/sources
UNIT     := $(patsubst test/unit/%.c,$(B)/test/%,$(wildcard test/unit/test_*.c))
FUZZ     := $(patsubst test/fuzz/%.c,$(B)/test/%,$(wildcard test/fuzz/fuzz_*.c))
FUZZ_FILES := $(wildcard test/golden/*/*.json test/samples/nmap/* test/samples/feeds/* test/fuzz/found/*)
PYTEST   := .venv/bin/python -m pytest -q -n $(or $(JOBS),6) -p no:cacheprovider

.PHONY: all debug asan check check-quick check-unit check-integration check-tools lint shape bench fault fuzz \
        upstream demo install clean help FORCE

all: $(B)/cworker $(B)/demo.so ## the program and the demo plugin (release, hardened)

debug: ## the same without optimisation
	$(Q)$(MAKE) B=build/debug CFLAGS='-O0 -g3'

asan: ## the same with AddressSanitizer and UndefinedBehaviorSanitizer
	$(Q)$(MAKE) SANITIZE=address,undefined CFLAGS='-O1 -g' all

$(B)/cworker: $(filter %/worker/main.o,$(OBJ)) $(LIB)
	$(Q)$(CC) $(LINK) -o $@ $< -Wl,--whole-archive $(LIB) -Wl,--no-whole-archive $(LIBS)
	@echo "  built $@ $(VERSION)"

$(LIB): $(filter-out %/worker/main.o,$(OBJ)) $(SOURCES)
	$(Q)rm -f $@ && ar rcs $@ $(filter %.o,$^)

# What an object depends on besides its sources (compiler, flags), and what the library does besides its
# objects (a source file that went). Each is written only when it has changed.
$(FLAGS) $(SOURCES): FORCE
	@mkdir -p $(@D)
	@echo '$($(@F)_are)' | cmp -s - $@ || echo '$($(@F)_are)' > $@
flags_are   = $(filter-out ccache -Werror,$(CC) $(ALL_CFLAGS) $(LINK) $(LIBS))
sources_are = $(SRC)

$(B)/%.o: %.c $(FLAGS)
	@mkdir -p $(@D)
	$(if $(V),,@echo "  CC $<")
	$(Q)$(CC) $(ALL_CFLAGS) -MMD -MP -c -o $@ $<

# .incbin is not seen by -MMD.
$(B)/tasks/discovery/queries.o: $(wildcard tasks/discovery/queries/*.sql)

$(B)/demo.so: examples/demo/demo.c tasks/cworker.h $(FLAGS)
	@mkdir -p $(@D)
	$(Q)$(CC) $(filter-out -fPIE,$(ALL_CFLAGS)) -fPIC -shared -o $@ $< -lcrypto

$(B)/ledger.so: test/fault/ledger.c tasks/cworker.h $(FLAGS)
	@mkdir -p $(@D)
	$(Q)$(CC) $(filter-out -fPIE,$(ALL_CFLAGS)) -fPIC -shared -o $@ $<

$(B)/upstream.so: test/upstream/tasks.c tasks/cworker.h $(FLAGS)
	@mkdir -p $(@D)
	$(Q)$(CC) $(filter-out -fPIE,$(ALL_CFLAGS)) -fPIC -shared -o $@ $< -lhiredis

$(B)/test/%: test/unit/%.c $(LIB) $(FLAGS)
	@mkdir -p $(@D)
	$(Q)$(CC) $(ALL_CFLAGS) -MMD -MP -Wno-missing-prototypes $(LINK) -o $@ $< $(LIB) $(LIBS) -lcmocka

$(B)/test/fuzz_%: test/fuzz/fuzz_%.c $(LIB) $(FLAGS)
	@mkdir -p $(@D)
	$(Q)$(CC) $(ALL_CFLAGS) -MMD -MP $(LINK) -o $@ $< $(LIB) $(LIBS)

check: ## everything: lint, unit tests, integration tests; also under the sanitizers
	$(Q)test/setup.sh all
	$(Q)$(MAKE) lint
	$(Q)$(MAKE) WERROR=1 -j2 check-unit
	$(Q)$(MAKE) -j2 SANITIZE=address,undefined CFLAGS='-O1 -g' all check-unit
	$(Q)$(MAKE) check-integration
	$(Q)$(MAKE) SANITIZE=address,undefined CFLAGS='-O1 -g' check-integration

check-quick: check-unit lint ## unit tests and lint only

check-unit: all $(UNIT) $(FUZZ)
	$(Q)printf '%s\n' $(UNIT) | xargs -P 2 -I% sh -c \
	    'timeout 300 % > %.log 2>&1 || { cat %.log; echo "  % failed"; exit 1; }; echo "  %"'
	$(Q)for f in message tools; do echo "  $(B)/test/fuzz_$$f"; $(B)/test/fuzz_$$f 100 $(FUZZ_FILES) || exit 1; done

fuzz: ## hostile messages and outputs of tools, searched for by clang's libFuzzer: SECONDS=600
	$(Q)for f in message tools; do \
	    $(MAKE) CC=clang B=build/fuzz SANITIZE=fuzzer-no-link,address,undefined CFLAGS='-O1 -g' \
	        LINK='-rdynamic -fsanitize=fuzzer,address,undefined' build/fuzz/test/fuzz_$$f && \
	    mkdir -p build/fuzz/$$f && \
	    build/fuzz/test/fuzz_$$f -max_total_time=$(or $(SECONDS),60) -artifact_prefix=build/fuzz/ \
	        -verbosity=0 build/fuzz/$$f $(sort $(dir $(FUZZ_FILES))) || exit 1; done

check-integration: all $(B)/ledger.so $(B)/upstream.so ## pytest with a real Celery, Redis, MongoDB-protocol server
	$(Q)CWORKER_BIN=$(B)/cworker DEMO_SO=$(B)/demo.so $(PYTEST) test/integration test/fault

check-tools: all ## the slow tests with real tools: a full testssl.sh, ZAP, prowler (over 2 GB, minutes)
	$(Q)test/setup.sh all && test/tools-check/install.sh
	$(Q)CHECK_TOOLS=1 CWORKER_BIN=$(B)/cworker DEMO_SO=$(B)/demo.so $(PYTEST) -rs \
	    test/integration/test_tasks_real_tools.py

lint: ## include directions, headers that compile alone, banned calls
	$(Q)test/lint.sh

shape: ## the ten longest files and functions
	$(Q)test/shape.sh

bench: all ## tasks per second, start-up, memory: side by side with Celery; a million findings, with pymongo
	$(Q)test/setup.sh all && .venv/bin/python test/bench/bench.py && \
	    .venv/bin/python test/bench/sync.py -n 1000000

fault: all $(B)/ledger.so ## a storm of kills, pauses and cut connections: SEED=7 SECONDS=300 WORKERS=4 MONGO=1 POOL=threads
	$(Q)test/setup.sh all && .venv/bin/python test/fault/storm.py --seconds $(or $(SECONDS),60) \
	    --workers $(or $(WORKERS),2) $(if $(SEED),--seed $(SEED)) $(if $(MONGO),--mongo) $(if $(POOL),--pool $(POOL))

upstream: all $(B)/upstream.so ## Celery's own integration suite against cworker: the score for each backend
	$(Q)test/setup.sh all && CWORKER_BIN=$(B)/cworker .venv/bin/python test/upstream/run.py

demo: ## sets up this machine, builds, and shows the whole thing at work
	$(Q)test/setup.sh demo
	$(Q)$(MAKE) -j2 all
	$(Q)examples/quickstart/demo.sh

install: all ## program, header, pkg-config file, manual page (DESTDIR, PREFIX)
	install -D -m 755 $(B)/cworker $(DESTDIR)$(PREFIX)/bin/cworker
	install -D -m 644 tasks/cworker.h $(DESTDIR)$(PREFIX)/include/cworker.h
	install -D -m 644 docs/cworker.1 $(DESTDIR)$(PREFIX)/share/man/man1/cworker.1
	install -d $(DESTDIR)$(PREFIX)/lib/pkgconfig
	sed 's|@PREFIX@|$(PREFIX)|; s|@VERSION@|$(VERSION)|' docs/cworker.pc.in \
	    > $(DESTDIR)$(PREFIX)/lib/pkgconfig/cworker.pc

clean: ## removes what was built
	rm -rf build

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 26

-include $(OBJ:.o=.d) $(UNIT:=.d) $(FUZZ:=.d)
