#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "common/util.h"
#include "orchestrator/domain_xml.h"

static struct domain_spec ordinary(void)
{
	return (struct domain_spec){
		.name = "orchestrator-vm-1",
		.uuid = "6ba7b810-9dad-41d1-80b4-00c04fd430c8",
		.owner = "owner-1",
		.vm_id = "vm-1",
		.job_id = "job-1",
		.attempt = 2,
		.cpus = 1,
		.memory_bytes = 512 * MIB,
		.kernel = "/images/a&b/kernel",
		.initramfs = "/images/a&b/initramfs",
		.cmdline = "extra=<1>",
		.root = "/images/a&b/root",
		.console = "/run/console",
		.secret_file = "/run/secret",
		.cid = 123456,
		.uid = (uid_t)-1,
		.gid = (gid_t)-1,
	};
}

static char *make(const struct domain_spec *spec)
{
	_cleanup_error_ struct error *err = NULL;
	char *xml = domain_xml_make(spec, &err);

	assert_non_null(xml);
	return xml;
}

static void no_network_interface_whichever_vsock_device(void **state)
{
	static const char *const vhost[] = {NULL, "/run/vhost.sock"};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(vhost); i++) {
		struct domain_spec spec = ordinary();
		char **devices;
		size_t n;
		bool network = true;

		spec.vhost_user = vhost[i];
		_cleanup_free_ char *xml = make(&spec);
		assert_null(strstr(xml, "<interface"));
		assert_int_equal(domain_xml_devices(xml, &devices, &n, &network, NULL), 0);
		assert_false(network);
		bool vsock = false;
		for (size_t d = 0; d < n; d++) {
			vsock |= strstr(devices[d], "vsock") != NULL;
			free(devices[d]);
		}
		free(devices);
		assert_true(vsock);
	}
}

/* The benchmark's field is the one way to an interface, and to the word that makes a worker listen
 * on TCP; an image cannot say that word. */
static void a_network_only_by_the_benchmarks_own_field(void **state)
{
	const struct domain_bench bench = {.rpc_port = 40001, .raw_port = 40002};
	_cleanup_error_ struct error *err = NULL;

	(void)state;
	for (unsigned i = 0; i < 32; i++) {
		struct domain_spec spec = ordinary();
		spec.kvm = i & 1;
		spec.vhost_user = i & 2 ? "/run/vhost.sock" : NULL;
		spec.scratch = i & 4 ? "/run/scratch" : NULL;
		spec.cpus = i & 8 ? 4 : 1;
		spec.tsc_khz = 2596122;
		spec.bench = i & 16 ? &bench : NULL;
		_cleanup_free_ char *xml = make(&spec);
		bool network = false;
		char **devices;
		size_t n, nics = 0;

		assert_int_equal(domain_xml_devices(xml, &devices, &n, &network, NULL), 0);
		for (size_t d = 0; d < n; d++) {
			nics += strstr(devices[d], "net") != NULL;
			free(devices[d]);
		}
		free(devices);
		assert_int_equal(nics, i & 16 ? 1 : 0);
		assert_int_equal(network, i & 16 ? 1 : 0);
		assert_int_equal(strstr(xml, "orchestrator.bench") != NULL, i & 16 ? 1 : 0);
		assert_int_equal(strstr(xml, "-netdev") != NULL, i & 16 ? 1 : 0);
		assert_int_equal(strstr(xml, " tsc_early_khz=2596122") != NULL, i & 1 ? 0 : 1);
		/* The host's full disk is the program's error, not the VM's end. */
		assert_int_equal(strstr(xml, "error_policy=\"report\"") != NULL, i & 4 ? 1 : 0);
		/* Never a way out of the host, nor for others into it. */
		if (i & 16) {
			assert_non_null(strstr(xml, "restrict=on"));
			assert_non_null(strstr(xml, "hostfwd=tcp:127.0.0.1:40001-10.0.2.15:9999"));
			assert_non_null(strstr(xml, "hostfwd=tcp:127.0.0.1:40002-10.0.2.15:9997"));
		}
	}
	struct domain_spec spec = ordinary();
	spec.cmdline = "quiet orchestrator.bench";
	assert_null(domain_xml_make(&spec, &err));
	assert_int_equal(err->code, ERR_INVALID);
}

static void an_interface_is_seen_wherever_it_came_in(void **state)
{
	static const char *const xmls[] = {
		"<domain><devices><interface type='user'/></devices></domain>",
		"<domain><devices><hostdev mode='subsystem'/></devices></domain>",
		"<domain xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><devices/>"
		"<qemu:commandline><qemu:arg value='-device'/><qemu:arg "
		"value='virtio-net-pci,id=n'/>"
		"</qemu:commandline></domain>",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(xmls); i++) {
		char **devices;
		size_t n;
		bool network = false;

		assert_int_equal(domain_xml_devices(xmls[i], &devices, &n, &network, NULL), 0);
		assert_true(network);
		for (size_t d = 0; d < n; d++)
			free(devices[d]);
		free(devices);
	}
}

static void owner_and_id_go_there_and_back(void **state)
{
	struct domain_spec spec = ordinary();
	_cleanup_free_ char *xml = make(&spec);
	_cleanup_free_ char *id = NULL;
	_cleanup_free_ char *owner = domain_xml_owner(xml, &id);

	(void)state;
	assert_string_equal(owner, "owner-1");
	assert_string_equal(id, "vm-1");
	assert_null(domain_xml_owner("<domain><metadata/></domain>", NULL));
	assert_null(domain_xml_owner("not xml", NULL));
}

static void values_are_escaped(void **state)
{
	struct domain_spec spec = ordinary();
	_cleanup_free_ char *xml = make(&spec);
	_cleanup_error_ struct error *err = NULL;

	(void)state;
	assert_non_null(strstr(xml, "/images/a&amp;b/kernel"));
	assert_non_null(strstr(xml, "extra=&lt;1&gt;"));
	/* A comma would start another option of QEMU's. */
	spec.vhost_user = "/run/a,server=on";
	assert_null(domain_xml_make(&spec, &err));
	assert_int_equal(err->code, ERR_INVALID);
}

static void timer_shortcuts_are_for_emulation_only(void **state)
{
	struct domain_spec spec = ordinary();
	_cleanup_free_ char *tcg = make(&spec);

	(void)state;
	assert_non_null(strstr(tcg, "noapictimer"));
	spec.cpus = 2;
	_cleanup_free_ char *smp = make(&spec);
	assert_null(strstr(smp, "noapictimer"));
	assert_non_null(strstr(smp, "tsc=reliable"));
	spec.kvm = true;
	_cleanup_free_ char *kvm = make(&spec);
	assert_null(strstr(kvm, "tsc=reliable"));
	assert_non_null(strstr(kvm, "host-passthrough"));
}

static void the_secret_is_no_part_of_the_command_line(void **state)
{
	struct domain_spec spec = ordinary();
	_cleanup_free_ char *xml = make(&spec);

	(void)state;
	assert_non_null(strstr(xml, "file=\"/run/secret\""));
	const char *cmdline = strstr(xml, "<cmdline>");
	assert_non_null(cmdline);
	assert_true(strstr(cmdline, "secret") == NULL ||
		    strstr(cmdline, "</cmdline>") < strstr(cmdline, "secret"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_network_interface_whichever_vsock_device),
		cmocka_unit_test(a_network_only_by_the_benchmarks_own_field),
		cmocka_unit_test(an_interface_is_seen_wherever_it_came_in),
		cmocka_unit_test(owner_and_id_go_there_and_back),
		cmocka_unit_test(values_are_escaped),
		cmocka_unit_test(timer_shortcuts_are_for_emulation_only),
		cmocka_unit_test(the_secret_is_no_part_of_the_command_line),
	};
	return cmocka_run_group_tests_name("domain_xml", tests, NULL, NULL);
}
