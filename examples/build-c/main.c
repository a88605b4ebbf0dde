#include <stdio.h>

int main(void)
{
	printf("built in one virtual machine, of %s\n", __DATE__);
	return 0;
}
