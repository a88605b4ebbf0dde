/* Any bytes as messages of the control socket. A spec that the daemon would take goes through all
 * that it becomes: a record, the store's form, result.json. A daemon's answer goes to a terminal.
 */
#include <jansson.h>

#include "control.pb-c.h"
#include "orchestrator/cli/job_view.h"
#include "orchestrator/jobspec.h"
#include "orchestrator/record.h"
#include "tests/fuzz/fuzz.h"

static void check_record(const struct job_record *record)
{
	Control__V1__JobInfo *info = record_to_info(record, "/r", RECORD_STORE);
	size_t size = control__v1__job_info__get_packed_size(info);
	_cleanup_free_ uint8_t *packed = xmalloc(size);
	struct job_result result = {0};

	control__v1__job_info__pack(info, packed);
	control__v1__job_info__free_unpacked(info, NULL);
	info = control__v1__job_info__unpack(NULL, size, packed);
	must(info != NULL, "the store's form", record->spec->image);
	record_result_from_info(info, &result);
	control__v1__job_info__free_unpacked(info, NULL);
	job_result_clear(&result);

	_cleanup_free_ char *text = record_result_json(record);
	json_t *json = json_loads(text, 0, NULL);
	must(json_is_object(json), "result.json", text);
	json_decref(json);
}

static void submit(const uint8_t *data, size_t size)
{
	const struct job_defaults defaults = {1000, 64 * MIB, 1};
	_cleanup_error_ struct error *err = NULL;
	Control__V1__SubmitRequest *request = control__v1__submit_request__unpack(NULL, size, data);

	if (request && request->spec) {
		if (jobspec_verify(request->spec, &err) == 0) {
			_cleanup_job_record_ struct job_record *record = job_record_new();
			job_id_make(1, record->id);
			record->spec = jobspec_copy(request->spec);
			record_fill_defaults(record->spec, &defaults);
			record->share = record_share_of(record->spec, 1000);
			check_record(record);
		} else {
			must_be_harmless(err->text, "error");
		}
	}
	control__v1__submit_request__free_unpacked(request, NULL);
}

static void show(const uint8_t *data, size_t size)
{
	static const enum output_format formats[] = {OUTPUT_TABLE, OUTPUT_JSON, OUTPUT_YAML};
	Control__V1__JobInfo *info = control__v1__job_info__unpack(NULL, size, data);
	_cleanup_free_ char *text = NULL;
	size_t n;

	if (!info)
		return;
	FILE *to = open_memstream(&text, &n);
	struct output output = {.to = to, .width = 80};
	json_t *job = job_view(info);
	for (size_t i = 0; i < ARRAY_SIZE(formats); i++) {
		output.format = formats[i];
		job_view_print(&output, &job_fields, job);
	}
	output.format = OUTPUT_TABLE;
	job_view_timing(&output, info);
	fclose(to);
	must(strlen(text) == n, "a NUL", text);
	/* In JSON DEL stands as it is; terminals pass over it. */
	for (char *c = text; (c = strchr(c, 0x7f));)
		*c = '?';
	must_be_harmless(text, "shown");
	json_decref(job);
	job_exit_code(info);
	free(job_what_happened(info));
	control__v1__job_info__free_unpacked(info, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!size)
		return 0;
	if (data[0] & 1)
		submit(data + 1, size - 1);
	else
		show(data + 1, size - 1);
	return 0;
}
