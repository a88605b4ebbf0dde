#include "common/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/util.h"

static int set(struct error **err, enum err_code code, char *text)
{
	if (!err) {
		free(text);
		return -1;
	}
	error_free(*err);
	*err = xcalloc(1, sizeof(**err));
	(*err)->code = code;
	(*err)->text = text;
	return -1;
}

int error_set(struct error **err, enum err_code code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	char *text = str_vprintf(fmt, ap);
	va_end(ap);
	return set(err, code, text);
}

static enum err_code code_of_errno(int errnum)
{
	switch (errnum) {
	case ENOENT:
	case ENOTDIR:
	case ESRCH:
		return ERR_NOT_FOUND;
	case EEXIST:
		return ERR_EXISTS;
	case EACCES:
	case EPERM:
	case EROFS:
		return ERR_DENIED;
	case ENOSPC:
	case EDQUOT:
	case ENOMEM:
	case EMFILE:
	case ENFILE:
	case EFBIG:
		return ERR_LIMIT;
	case ETIMEDOUT:
		return ERR_TIMEOUT;
	case EINVAL:
	case ENAMETOOLONG:
		return ERR_INVALID;
	case ECONNREFUSED:
	case ECONNRESET:
	case EPIPE:
	case ENODEV:
	case ENXIO:
		return ERR_UNAVAILABLE;
	case ECANCELED:
		return ERR_CANCELLED;
	case ENOSYS:
	case EOPNOTSUPP:
	case EAFNOSUPPORT:
		return ERR_UNSUPPORTED;
	case EBUSY:
	case EADDRINUSE:
		return ERR_STATE;
	default:
		return ERR_UNKNOWN;
	}
}

int error_errno(struct error **err, int errnum, const char *fmt, ...)
{
	char buf[128];
	va_list ap;

	va_start(ap, fmt);
	_cleanup_free_ char *what = str_vprintf(fmt, ap);
	va_end(ap);
	return set(err, code_of_errno(errnum),
		str_printf("%s: %s", what, strerror_r(errnum, buf, sizeof(buf))));
}

int error_wrap(struct error **err, const char *fmt, ...)
{
	va_list ap;

	if (!err || !*err)
		return -1;
	va_start(ap, fmt);
	_cleanup_free_ char *what = str_vprintf(fmt, ap);
	va_end(ap);
	char *text = str_printf("%s: %s", what, (*err)->text);
	free((*err)->text);
	(*err)->text = text;
	return -1;
}

int error_move(struct error **err, struct error *src)
{
	if (!err) {
		error_free(src);
		return -1;
	}
	error_free(*err);
	*err = src;
	return -1;
}

int error_blame_caller(struct error **err)
{
	if (err && *err)
		(*err)->code = ERR_INVALID;
	return -1;
}

void error_free(struct error *err)
{
	if (!err)
		return;
	free(err->text);
	free(err);
}

const char *err_code_name(enum err_code code)
{
	static const char *const names[] = {
		[ERR_CANCELLED] = "CANCELLED",
		[ERR_UNKNOWN] = "UNKNOWN",
		[ERR_INVALID] = "INVALID",
		[ERR_TIMEOUT] = "TIMEOUT",
		[ERR_NOT_FOUND] = "NOT_FOUND",
		[ERR_EXISTS] = "EXISTS",
		[ERR_DENIED] = "DENIED",
		[ERR_LIMIT] = "LIMIT",
		[ERR_STATE] = "STATE",
		[ERR_ABORTED] = "ABORTED",
		[ERR_RANGE] = "RANGE",
		[ERR_UNSUPPORTED] = "UNSUPPORTED",
		[ERR_INTERNAL] = "INTERNAL",
		[ERR_UNAVAILABLE] = "UNAVAILABLE",
		[ERR_DATA_LOSS] = "DATA_LOSS",
		[ERR_UNAUTHENTICATED] = "UNAUTHENTICATED",
	};
	if ((size_t)code >= ARRAY_SIZE(names) || !names[code])
		return "UNKNOWN";
	return names[code];
}
