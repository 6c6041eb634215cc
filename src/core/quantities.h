/* Bytes and seconds as people read them. */
#ifndef DA_CORE_QUANTITIES_H
#define DA_CORE_QUANTITIES_H

#define DA_QUANTITY_SIZE 24

/* "1.5 GiB"; "12.3 ms", with three digits. They write into text and return it. */
const char *da_format_bytes(double bytes, char text[DA_QUANTITY_SIZE]);
const char *da_format_seconds(double seconds, char text[DA_QUANTITY_SIZE]);

#endif
