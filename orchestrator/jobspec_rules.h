/* What a job's fields must be like, in one place for the file (jobspec_parse) and for what comes
 * over the control socket (jobspec_verify). Each rule: NULL, or what is wrong with the text, owned
 * by the caller, to be put behind the field's name: "must not be empty". */
#pragma once

#include "orchestrator/yaml_table.h"

char *rule_name(const char *value);	/* a job, an image: a-z 0-9, inside also . _ - */
char *rule_user(const char *value);	/* a user of the guest: name or id */
char *rule_argument(const char *value); /* of the command */
char *rule_script(const char *value);	/* for /bin/sh */
char *rule_env_name(const char *value); /* [A-Za-z_][A-Za-z0-9_]* */
char *rule_env_value(const char *value);
char *rule_working_dir(const char *value); /* absolute */
char *rule_input_src(const char *value);   /* on the host, as the submitter says it */
char *rule_input_dest(const char *value);  /* absolute, and not what the kernel serves */
char *rule_output_path(const char *value); /* absolute or below the working directory */
char *rule_label_name(const char *value);
char *rule_label_value(const char *value);

/* An absolute path without "..", "." and control characters; for the configuration too. */
char *rule_absolute_path(const char *value);

/* The keys of job.yaml, onto Job__V1__Spec. */
extern const struct yaml_table jobspec_table;
