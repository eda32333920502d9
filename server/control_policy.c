// SPDX-License-Identifier: Apache-2.0
/* policy: what is kept, what a change would drop, and the change. */
#include <errno.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "server/control.h"
#include "server/keeper.h"

/* What goes, by tier; the points that are older than all tiers have no age_s. */
static void tiers_json(cJSON *result, const struct retain_policy *p, const struct policy_effect *e)
{
	cJSON *list = cJSON_AddArrayToObject(result, "tiers"), *t;

	for (uint32_t i = 0; i <= p->ntiers; i++) {
		t = cJSON_CreateObject();
		if (i < p->ntiers) {
			tm_json_u64(t, "age_s", p->tier[i].age_s);
			tm_json_u64(t, "every_s", p->tier[i].every_s);
		}
		tm_json_u64(t, "points", e->tier[i].points);
		tm_json_u64(t, "drops", e->tier[i].drops);
		cJSON_AddItemToArray(list, t);
	}
}

static int policy_json(
	struct machine *m, const struct retain_policy *p, cJSON **result, struct tm_err *err)
{
	struct policy_effect e;
	char text[512];
	int rc = policy_effect(m, p, &e, err);

	if (rc)
		return rc;
	retain_format(p, text, sizeof(text));
	*result = cJSON_CreateObject();
	cJSON_AddStringToObject(*result, "policy", text);
	tm_json_u64(*result, "immutable_s", p->immutable_s);
	tm_json_u64(*result, "points", e.points);
	tm_json_u64(*result, "drops", e.drops);
	tm_json_time(*result, "drops_first", (uint64_t)e.first_ns);
	tm_json_time(*result, "drops_last", (uint64_t)e.last_ns);
	tm_json_u64(*result, "drops_bytes", e.bytes);
	tiers_json(*result, p, &e);
	return 0;
}

/* The machine, and its policy with what args change of it. */
static int wanted(struct tm_control_call *call, const cJSON *args, struct machine **m,
	struct retain_policy *p, struct tm_err *err)
{
	const char *tiers = NULL;
	int rc = control_machine(call, args, m, err);

	if (!rc)
		rc = policy_get(*m, p, err);
	if (!rc)
		rc = tm_arg_string_opt(args, "policy", &tiers, err);
	if (!rc && tiers)
		rc = retain_parse(tiers, p, err);
	return rc ? rc : tm_arg_u64_opt(args, "immutable_s", &p->immutable_s, err);
}

int control_policy(
	struct tm_control_call *call, const cJSON *args, cJSON **result, struct tm_err *err)
{
	struct retain_policy p;
	struct machine *m;
	int rc = wanted(call, args, &m, &p, err);

	return rc ? rc : policy_json(m, &p, result, err);
}

int control_policy_set(
	struct tm_control_call *call, const cJSON *args, cJSON **result, struct tm_err *err)
{
	struct retain_policy p;
	struct machine *m;
	int rc = wanted(call, args, &m, &p, err);

	if (!rc)
		rc = policy_json(m, &p, result, err);
	if (!rc)
		rc = policy_set(m, &p, err);
	if (rc == -EPERM)
		call->exit = 4;
	if (rc && *result) {
		cJSON_Delete(*result);
		*result = NULL;
	}
	return rc;
}
