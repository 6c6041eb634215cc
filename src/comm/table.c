/* A caller's table of functions, checked. */
#include "comm/comm.h"
#include "config/validation.h"

void da_comm_init(da_comm *comm) {
    if (comm) {
        *comm = (da_comm){.size = sizeof *comm, .ranks = 1, .timeout = 60};
    }
}

static da_status missing(const char *name) {
    return da_report(DA_ERROR_INVALID_ARGUMENT,
                     "comm.%s is NULL; allowed: a function (gather, reduce, abandon: or NULL)", name);
}

static da_status check(const da_comm *comm) {
    if (comm->ranks < 1) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "comm.ranks is %d; allowed: 1 or more", comm->ranks);
    }
    if (comm->rank < 0 || comm->rank >= comm->ranks) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "comm.rank is %d; allowed: 0 to %d", comm->rank, comm->ranks - 1);
    }
    da_status status = da_comm_check_timeout("comm.timeout", comm->timeout);
    return status != DA_OK  ? status
           : !comm->send    ? missing("send")
           : !comm->receive ? missing("receive")
           : !comm->wait    ? missing("wait")
           : !comm->cancel  ? missing("cancel")
                            : DA_OK;
}

da_status da_comm_import(const da_comm *theirs, da_comm *ours) {
    da_comm_init(ours);
    da_status status = da_copy_sized(ours, sizeof *ours, theirs, "comm");
    return status == DA_OK ? check(ours) : status;
}
