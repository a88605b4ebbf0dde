#include "orchestrator/domain_xml.h"

#include <libxml/parser.h>
#include <libxml/xmlwriter.h>
#include <libxml/xpath.h>
#include <libxml/xpathInternals.h>
#include <string.h>

#include "common/bench.h"
#include "common/util.h"
#include "common/worker_proof.h"

#define QEMU_NAMESPACE "http://libvirt.org/schemas/domain/qemu/1.0"

/* An xmlTextWriter reports exhaustion only; xmalloc's answer to that is good enough here too. */
typedef xmlTextWriterPtr writer;

static const xmlChar *x(const char *s)
{
	return (const xmlChar *)s;
}

static void open_tag(writer w, const char *name)
{
	xmlTextWriterStartElement(w, x(name));
}

static void attr(writer w, const char *name, const char *value)
{
	xmlTextWriterWriteAttribute(w, x(name), x(value));
}

static void close_tag(writer w)
{
	xmlTextWriterEndElement(w);
}

static void element(writer w, const char *name, const char *text)
{
	xmlTextWriterWriteElement(w, x(name), x(text));
}

/* <name key='value'/>, the shape most of libvirt's elements have. */
static void empty1(writer w, const char *name, const char *key, const char *value)
{
	open_tag(w, name);
	attr(w, key, value);
	close_tag(w);
}

/* Straight on the root complex: a port in between costs the guest time to enumerate. */
static void pci_slot(writer w, unsigned slot)
{
	_cleanup_free_ char *text = str_printf("0x%02x", slot);

	open_tag(w, "address");
	attr(w, "type", "pci");
	attr(w, "domain", "0x0000");
	attr(w, "bus", "0x00");
	attr(w, "slot", text);
	attr(w, "function", "0x0");
	close_tag(w);
}

enum { SLOT_ROOT = 2, SLOT_SCRATCH = 3, SLOT_VSOCK = 4, SLOT_BENCH = 5 };

static void write_vm_attributes(
	writer w, const char *owner, const char *vm_id, const char *job_id, unsigned attempt)
{
	_cleanup_free_ char *number = str_printf("%u", attempt);

	attr(w, "owner", owner);
	attr(w, "id", vm_id);
	attr(w, "job", job_id);
	attr(w, "attempt", number);
}

static void write_metadata(writer w, const struct domain_spec *spec)
{
	open_tag(w, "metadata");
	open_tag(w, DOMAIN_NAMESPACE_PREFIX ":vm");
	attr(w, "xmlns:" DOMAIN_NAMESPACE_PREFIX, DOMAIN_NAMESPACE);
	write_vm_attributes(w, spec->owner, spec->vm_id, spec->job_id, spec->attempt);
	close_tag(w);
	close_tag(w);
}

static void write_memory(writer w, const struct domain_spec *spec)
{
	_cleanup_free_ char *kib =
		str_printf("%llu", (unsigned long long)((spec->memory_bytes + 1023) / 1024));

	open_tag(w, "memory");
	attr(w, "unit", "KiB");
	xmlTextWriterWriteString(w, x(kib));
	close_tag(w);
	open_tag(w, "memoryBacking");
	if (spec->vhost_user) {
		/* The userspace device reads the rings in guest memory: it must be shareable. */
		empty1(w, "source", "type", "memfd");
		empty1(w, "access", "mode", "shared");
	}
	/* Same-page merging between guests tells each what the other has. */
	element(w, "nosharepages", NULL);
	close_tag(w);
}

/* What the guest's kernel is told besides what its image asks for. The timer shortcuts are for
 * emulation, where calibrating a clock against another one takes longer than all else; with more
 * than one vCPU the APIC timer is needed. On KVM the timers are left alone.
 *
 * An emulated guest's time stamp counter is the host's, and its frequency is told: where the guest
 * measures it on a loaded host it may be wrong by any factor, and with it a job's timeout. */
static char *cmdline_make(const struct domain_spec *spec)
{
	const char *timers = "";

	if (!spec->kvm)
		timers = spec->cpus == 1 ? " no_timer_check noapictimer noreplace-smp tsc=reliable"
					 : " no_timer_check noreplace-smp tsc=reliable";
	_cleanup_free_ char *tsc =
		!spec->kvm && spec->tsc_khz ? str_printf(" tsc_early_khz=%u", spec->tsc_khz) : NULL;
	return str_printf("console=ttyS0 quiet panic=-1 reboot=t%s%s%s%s%s", timers, tsc ? tsc : "",
		spec->bench ? " " BENCH_WORD : "", spec->cmdline && *spec->cmdline ? " " : "",
		spec->cmdline ? spec->cmdline : "");
}

static void write_os(writer w, const struct domain_spec *spec)
{
	_cleanup_free_ char *cmdline = cmdline_make(spec);

	open_tag(w, "os");
	open_tag(w, "type");
	attr(w, "arch", "x86_64");
	attr(w, "machine", "q35");
	xmlTextWriterWriteString(w, x("hvm"));
	close_tag(w);
	if (spec->firmware) {
		open_tag(w, "loader");
		attr(w, "type", "rom");
		xmlTextWriterWriteString(w, x(spec->firmware));
		close_tag(w);
	}
	element(w, "kernel", spec->kernel);
	element(w, "initrd", spec->initramfs);
	element(w, "cmdline", cmdline);
	close_tag(w);
	open_tag(w, "sysinfo");
	attr(w, "type", "fwcfg");
	open_tag(w, "entry");
	/* By file: an inline value would stand on QEMU's command line for everyone to read. */
	attr(w, "name", PROOF_FW_CFG_NAME);
	attr(w, "file", spec->secret_file);
	close_tag(w);
	close_tag(w);
}

static void write_cpu_feature(writer w, const char *name)
{
	open_tag(w, "feature");
	attr(w, "policy", "disable");
	attr(w, "name", name);
	close_tag(w);
}

static void write_cpu(writer w, const struct domain_spec *spec)
{
	_cleanup_free_ char *n = str_printf("%u", spec->cpus);

	element(w, "vcpu", n);
	open_tag(w, "cpu");
	attr(w, "mode", spec->kvm ? "host-passthrough" : "maximum");
	if (!spec->kvm) {
		/* With these a kernel copies by "rep movsb", which TCG runs byte by byte: vsock
		 * would have a third of its throughput. */
		write_cpu_feature(w, "erms");
		write_cpu_feature(w, "fsrm");
	}
	close_tag(w);
	open_tag(w, "clock");
	attr(w, "offset", "utc");
	if (!spec->kvm) {
		open_tag(w, "timer");
		attr(w, "name", "hpet");
		attr(w, "present", "no");
		close_tag(w);
	}
	close_tag(w);
	open_tag(w, "features");
	/* Without ACPI the kernel finds its processors by the MP table. */
	element(w, "apic", NULL);
	close_tag(w);
}

static void write_disk(writer w, const struct domain_spec *spec, const char *path,
	const char *target, const char *serial, bool readonly, unsigned slot)
{
	open_tag(w, "disk");
	attr(w, "type", "file");
	attr(w, "device", "disk");
	open_tag(w, "driver");
	attr(w, "name", "qemu");
	attr(w, "type", "raw");
	/* The scratch disk dies with its VM: nothing has to reach the platter. */
	attr(w, "cache", readonly ? "writeback" : "unsafe");
	/* A full disk of the host is the program's error, not a VM that stands still. */
	if (!readonly)
		attr(w, "error_policy", "report");
	close_tag(w);
	open_tag(w, "source");
	attr(w, "file", path);
	if (readonly && spec->uid != (uid_t)-1) {
		/* The image is shared and ours: libvirt must not give it to this domain's user. */
		open_tag(w, "seclabel");
		attr(w, "model", "dac");
		attr(w, "relabel", "no");
		close_tag(w);
	}
	close_tag(w);
	open_tag(w, "target");
	attr(w, "dev", target);
	attr(w, "bus", "virtio");
	close_tag(w);
	if (readonly) {
		element(w, "readonly", NULL);
		/* All VMs have the same root open; nobody writes, so nobody locks. */
		element(w, "shareable", NULL);
	}
	element(w, "serial", serial);
	pci_slot(w, slot);
	close_tag(w);
}

static void write_console(writer w, const struct domain_spec *spec)
{
	open_tag(w, "serial");
	attr(w, "type", "unix");
	open_tag(w, "source");
	attr(w, "mode", "connect");
	attr(w, "path", spec->console);
	/* A daemon that comes back listens again, and QEMU finds it. */
	open_tag(w, "reconnect");
	attr(w, "enabled", "yes");
	attr(w, "timeout", "1");
	close_tag(w);
	close_tag(w);
	open_tag(w, "target");
	attr(w, "type", "isa-serial");
	attr(w, "port", "0");
	close_tag(w);
	close_tag(w);
}

static void write_devices(writer w, const struct domain_spec *spec)
{
	open_tag(w, "devices");
	if (spec->emulator)
		element(w, "emulator", spec->emulator);
	open_tag(w, "controller");
	attr(w, "type", "usb");
	attr(w, "model", "none");
	close_tag(w);
	empty1(w, "memballoon", "model", "none");
	write_disk(w, spec, spec->root, "vda", "root", true, SLOT_ROOT);
	if (spec->scratch)
		write_disk(w, spec, spec->scratch, "vdb", "scratch", false, SLOT_SCRATCH);
	write_console(w, spec);
	empty1(w, "panic", "model", "isa");
	if (!spec->vhost_user) {
		_cleanup_free_ char *cid = str_printf("%u", spec->cid);
		open_tag(w, "vsock");
		attr(w, "model", "virtio");
		open_tag(w, "cid");
		attr(w, "auto", "no");
		attr(w, "address", cid);
		close_tag(w);
		pci_slot(w, SLOT_VSOCK);
		close_tag(w);
	}
	close_tag(w);
}

static void qemu_argument(writer w, const char *value)
{
	empty1(w, "qemu:arg", "value", value);
}

/* libvirt asks a new QEMU for each of its four hundred CPU properties, one request each, to list
 * the features in its XML: a tenth of a second and more. Without this capability it has one request
 * for them all. Nothing else of libvirt's rests on it. */
static void write_capabilities(writer w)
{
	open_tag(w, "qemu:capabilities");
	empty1(w, "qemu:del", "capability", "cpu-unavailable-features");
	close_tag(w);
}

/* libvirt 9 has no element for a vhost-user vsock device. */
static void write_user_vsock(writer w, const struct domain_spec *spec)
{
	_cleanup_free_ char *chardev = str_printf("socket,id=vsock0,path=%s", spec->vhost_user);
	_cleanup_free_ char *device = str_printf(
		"vhost-user-vsock-pci,chardev=vsock0,bus=pcie.0,addr=0x%02x", SLOT_VSOCK);

	qemu_argument(w, "-chardev");
	qemu_argument(w, chardev);
	qemu_argument(w, "-device");
	qemu_argument(w, device);
}

/* Nor can it lead a port of the host's to a guest. */
static void write_bench_network(writer w, const struct domain_bench *bench)
{
	_cleanup_free_ char *netdev =
		str_printf("user,id=bench0,restrict=on,ipv6=off,"
			   "hostfwd=tcp:127.0.0.1:%u-" BENCH_GUEST_ADDRESS ":%u,"
			   "hostfwd=tcp:127.0.0.1:%u-" BENCH_GUEST_ADDRESS ":%u",
			bench->rpc_port, WORKER_PORT, bench->raw_port, BENCH_RAW_PORT);
	_cleanup_free_ char *device = str_printf(
		"virtio-net-pci,netdev=bench0,romfile=,bus=pcie.0,addr=0x%02x", SLOT_BENCH);

	qemu_argument(w, "-netdev");
	qemu_argument(w, netdev);
	qemu_argument(w, "-device");
	qemu_argument(w, device);
}

static void write_qemu_arguments(writer w, const struct domain_spec *spec)
{
	if (!spec->vhost_user && !spec->bench)
		return;
	open_tag(w, "qemu:commandline");
	if (spec->vhost_user)
		write_user_vsock(w, spec);
	if (spec->bench)
		write_bench_network(w, spec->bench);
	close_tag(w);
}

static void write_seclabel(writer w, const struct domain_spec *spec)
{
	_cleanup_free_ char *label = NULL;

	if (spec->uid == (uid_t)-1)
		return;
	label = str_printf("+%u:+%u", spec->uid, spec->gid);
	open_tag(w, "seclabel");
	attr(w, "type", "static");
	attr(w, "model", "dac");
	attr(w, "relabel", "yes");
	element(w, "label", label);
	close_tag(w);
}

static int check_spec(const struct domain_spec *spec, struct error **err)
{
	/* A comma would end the value in QEMU's -chardev option. */
	if (spec->vhost_user && strchr(spec->vhost_user, ','))
		return error_set(err, ERR_INVALID, "%s: a comma is not possible in runtime_dir",
			spec->vhost_user);
	/* An image says what its kernel needs, not what the VM is for. */
	if (spec->cmdline && strstr(spec->cmdline, BENCH_WORD))
		return error_set(err, ERR_INVALID,
			"the image's command line has " BENCH_WORD
			", which is not the image's to say");
	return 0;
}

char *domain_xml_make(const struct domain_spec *spec, struct error **err)
{
	if (check_spec(spec, err) < 0)
		return NULL;
	xmlBufferPtr buffer = xmlBufferCreate();
	writer w = buffer ? xmlNewTextWriterMemory(buffer, 0) : NULL;

	if (!w) {
		if (buffer)
			xmlBufferFree(buffer);
		error_set(err, ERR_LIMIT, "no memory for the domain's XML");
		return NULL;
	}
	xmlTextWriterSetIndent(w, 1);
	open_tag(w, "domain");
	attr(w, "type", spec->kvm ? "kvm" : "qemu");
	attr(w, "xmlns:qemu", QEMU_NAMESPACE);
	element(w, "name", spec->name);
	element(w, "uuid", spec->uuid);
	write_metadata(w, spec);
	write_memory(w, spec);
	write_os(w, spec);
	write_cpu(w, spec);
	element(w, "on_poweroff", "destroy");
	element(w, "on_reboot", "destroy");
	element(w, "on_crash", "destroy");
	write_devices(w, spec);
	write_seclabel(w, spec);
	write_qemu_arguments(w, spec);
	write_capabilities(w);
	close_tag(w);
	xmlTextWriterEndDocument(w);
	xmlFreeTextWriter(w);
	char *xml = xstrdup((const char *)xmlBufferContent(buffer));
	xmlBufferFree(buffer);
	return xml;
}

char *domain_xml_metadata(
	const char *owner, const char *vm_id, const char *job_id, unsigned attempt)
{
	xmlBufferPtr buffer = xmlBufferCreate();
	writer w = buffer ? xmlNewTextWriterMemory(buffer, 0) : NULL;

	if (!w)
		abort();   /* out of memory */
	open_tag(w, "vm"); /* libvirt puts the namespace to it */
	write_vm_attributes(w, owner, vm_id, job_id, attempt);
	close_tag(w);
	xmlTextWriterEndDocument(w);
	xmlFreeTextWriter(w);
	char *xml = xstrdup((const char *)xmlBufferContent(buffer));
	xmlBufferFree(buffer);
	return xml;
}

/* What libvirt gives back. -----------------------------------------------------------------------
 */

struct parsed {
	xmlDocPtr doc;
	xmlXPathContextPtr context;
};

static void parsed_clear(struct parsed *p)
{
	if (p->context)
		xmlXPathFreeContext(p->context);
	if (p->doc)
		xmlFreeDoc(p->doc);
}
#define _cleanup_parsed_ __attribute__((cleanup(parsed_clear)))

static int parse(const char *xml, struct parsed *ret)
{
	ret->doc = xmlReadMemory(xml, (int)strlen(xml), "domain.xml", NULL,
		XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING);
	ret->context = ret->doc ? xmlXPathNewContext(ret->doc) : NULL;
	if (!ret->context)
		return -1;
	xmlXPathRegisterNs(ret->context, x("o"), x(DOMAIN_NAMESPACE));
	xmlXPathRegisterNs(ret->context, x("q"), x(QEMU_NAMESPACE));
	return 0;
}

static char *xpath_string(struct parsed *p, const char *path)
{
	xmlXPathObjectPtr object = xmlXPathEvalExpression(x(path), p->context);
	char *s = NULL;

	if (object && object->type == XPATH_STRING && object->stringval && *object->stringval)
		s = xstrdup((const char *)object->stringval);
	xmlXPathFreeObject(object);
	return s;
}

char *domain_xml_owner(const char *xml, char **ret_vm_id)
{
	_cleanup_parsed_ struct parsed p = {0};

	if (parse(xml, &p) < 0)
		return NULL;
	char *owner = xpath_string(&p, "string(/domain/metadata/o:vm/@owner)");
	if (owner && ret_vm_id)
		*ret_vm_id = xpath_string(&p, "string(/domain/metadata/o:vm/@id)");
	return owner;
}

static void add_device(char ***devices, size_t *n, char *text)
{
	*devices = xreallocarray(*devices, *n + 1, sizeof(**devices));
	(*devices)[(*n)++] = text;
}

static char *describe_device(xmlNodePtr node)
{
	static const char *const details[] = {"model", "type", "device"};

	for (size_t i = 0; i < ARRAY_SIZE(details); i++) {
		xmlChar *value = xmlGetProp(node, x(details[i]));
		if (!value)
			continue;
		char *text = str_printf("%s %s", (const char *)node->name, (const char *)value);
		xmlFree(value);
		return text;
	}
	return xstrdup((const char *)node->name);
}

int domain_xml_devices(const char *xml, char ***ret_devices, size_t *ret_n,
	bool *ret_network_interface, struct error **err)
{
	_cleanup_parsed_ struct parsed p = {0};

	if (parse(xml, &p) < 0)
		return error_set(err, ERR_INTERNAL, "the domain's XML cannot be read");
	*ret_devices = NULL;
	*ret_n = 0;
	*ret_network_interface = false;
	xmlXPathObjectPtr found =
		xmlXPathEvalExpression(x("/domain/devices/*[not(self::emulator)]"), p.context);
	for (int i = 0; found && found->nodesetval && i < found->nodesetval->nodeNr; i++) {
		xmlNodePtr node = found->nodesetval->nodeTab[i];
		if (xmlStrEqual(node->name, x("interface")) ||
			xmlStrEqual(node->name, x("hostdev")))
			*ret_network_interface = true;
		add_device(ret_devices, ret_n, describe_device(node));
	}
	xmlXPathFreeObject(found);
	/* What went around libvirt, by its command line passthrough. */
	found = xmlXPathEvalExpression(x("//q:commandline/q:arg[@value='-device']/"
					 "following-sibling::q:arg[1]/@value"),
		p.context);
	for (int i = 0; found && found->nodesetval && i < found->nodesetval->nodeNr; i++) {
		xmlChar *value = xmlNodeGetContent(found->nodesetval->nodeTab[i]);
		size_t len = strcspn((const char *)value, ",");
		if (strstr((const char *)value, "net"))
			*ret_network_interface = true;
		add_device(ret_devices, ret_n, xstrndup((const char *)value, len));
		xmlFree(value);
	}
	xmlXPathFreeObject(found);
	return 0;
}
